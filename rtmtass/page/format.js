// Words and figures of the page: levels, gains and times as text of steady width.

const MINUS = "\u2212";
export const NOTHING = "\u2013";

function signed(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? MINUS : "+") + text;
}

// A gain in dB; null is silence.
export function gainText(db) {
  return db === null ? "off" : `${signed(db, 1)} dB`;
}

// A level in dBFS; null is below -120 dBFS.
export function levelText(db) {
  if (db === null || db === undefined) return `${MINUS}\u221e`;
  return signed(db, 1);
}

// The strength in dB; null is no limit.
export function strengthText(db) {
  return db === null ? "no limit" : `${db.toFixed(0)} dB`;
}

// A time in seconds as "0:07", "12:34" or "1:02:03".
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (value) => String(value).padStart(2, "0");
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}

export function millisecondsText(ms, digits = 1) {
  return Number.isFinite(ms) ? ms.toFixed(digits) : NOTHING;
}

// A count with its thousands apart.
export function countText(count) {
  return String(count).replace(/\B(?=(\d{3})+$)/g, "\u2009");
}

export function capitalised(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}
