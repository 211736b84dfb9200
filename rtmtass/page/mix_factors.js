// The linear gains of the stems, as the mixer of the live engine sets them: the twin of
// MixSettings.factors in rtmtass/live/mixer.py, to which a test holds it.

const NEPERS = Math.log(10) / 20; // natural logarithm of a gain of 1 dB

// Whether a stem is in the mix: neither muted nor left out by another's solo.
export function isAudible(stem, { muted, soloed }) {
  return !muted.includes(stem) && (soloed.length === 0 || soloed.includes(stem));
}

// Returns the factor of each stem of `controls`: gains_db by stem with null for -inf, muted,
// soloed, and strength_db with null for no limit: how far a stem may lie below the loudest.
export function mixFactors(controls) {
  const gains = Object.entries(controls.gains_db).map(([stem, db]) => [stem, db ?? -Infinity]);
  const audible = gains.filter(([stem]) => isAudible(stem, controls));
  const loudest = Math.max(...audible.map(([, db]) => db));
  const floor = loudest - (controls.strength_db ?? Infinity);
  const factor = (db) => Math.exp((db > floor ? db : floor) * NEPERS);
  return Object.fromEntries(gains.map(([stem, db]) =>
    [stem, isAudible(stem, controls) ? factor(db) : 0]));
}
