// The mix as the page shows it: changed by controls and keys, which sends messages, and by the
// states of the backend, which doesn't.
//
// A state may be older than the latest change. So a value that was changed here stays for HOLD_MS,
// and while a person holds its control; then the latest state counts again.

export const LOWEST_GAIN_DB = -60;
export const LARGEST_GAIN_DB = 20;
export const LARGEST_STRENGTH_DB = 60;
const GAIN_STEP_DB = 1;
const STRENGTH_STEP_DB = 3;
const HOLD_MS = 600;
const RECORD_HOLD_MS = 2000; // a recording opens files before it runs

// One step up or down; below the lowest gain is silence (null), as in the terminal.
export function steppedGain(db, direction, stepDb = GAIN_STEP_DB) {
  if (db === null) return direction > 0 ? LOWEST_GAIN_DB : null;
  const changed = db + direction * stepDb;
  return changed < LOWEST_GAIN_DB ? null : Math.min(changed, LARGEST_GAIN_DB);
}

// One step up or down; above the largest strength there is no limit (null).
export function steppedStrength(db, direction, stepDb = STRENGTH_STEP_DB) {
  if (db === null) return direction > 0 ? null : LARGEST_STRENGTH_DB;
  const changed = db + direction * stepDb;
  return changed > LARGEST_STRENGTH_DB ? null : Math.max(changed, 0);
}

export class Settings {
  #values = new Map();
  #pending = new Map();
  #held = null;
  #latest = null;
  #timer = 0;
  #send;
  #changed;

  // `send` gets each message for the backend; `changed` is called after any change.
  constructor(stems, send, changed) {
    this.stems = stems;
    this.#send = send;
    this.#changed = changed;
    for (const stem of stems) {
      this.#values.set(`gain ${stem}`, 0).set(`mute ${stem}`, false).set(`solo ${stem}`, false);
    }
    this.#values.set("strength", null).set("bypass", false).set("record", false);
  }

  gain(stem) { return this.#values.get(`gain ${stem}`); }
  isMuted(stem) { return this.#values.get(`mute ${stem}`); }
  isSoloed(stem) { return this.#values.get(`solo ${stem}`); }
  get strength() { return this.#values.get("strength"); }
  get isBypassed() { return this.#values.get("bypass"); }
  get isRecording() { return this.#values.get("record"); }

  // Whether the stem is in the mix: neither muted nor left out by another's solo.
  isAudible(stem) {
    const hasSolo = this.stems.some((name) => this.isSoloed(name));
    return !this.isMuted(stem) && (!hasSolo || this.isSoloed(stem));
  }

  setGain(stem, db) { this.#set(`gain ${stem}`, db, { do: "gain", stem, db }); }
  setMute(stem, on) { this.#set(`mute ${stem}`, on, { do: "mute", stem, on }); }
  setSolo(stem, on) { this.#set(`solo ${stem}`, on, { do: "solo", stem, on }); }
  setStrength(db) { this.#set("strength", db, { do: "strength", db }); }
  setBypass(on) { this.#set("bypass", on, { do: "bypass", on }); }
  setRecord(on) { this.#set("record", on, { do: "record", on }); }

  // All gains to 0 dB, nothing muted or soloed.
  reset() {
    for (const stem of this.stems) {
      this.#keep(`gain ${stem}`, 0);
      this.#keep(`mute ${stem}`, false);
      this.#keep(`solo ${stem}`, false);
    }
    this.#send({ do: "reset" });
    this.#changed();
  }

  // While a control is held, states don't move it: `name` is "gain music", "strength", ...
  hold(name) { this.#held = name; }

  release() {
    if (this.#held !== null) this.#keep(this.#held, this.#values.get(this.#held));
    this.#held = null;
  }

  // Take over the values of a state; sends nothing.
  accept(state) {
    this.#latest = state;
    const { controls, stats } = state;
    let isChanged = this.#accept("record", Boolean(stats?.recording?.is_running));
    for (const stem of this.stems) {
      isChanged = this.#accept(`gain ${stem}`, controls.gains_db[stem] ?? null) || isChanged;
      isChanged = this.#accept(`mute ${stem}`, controls.muted.includes(stem)) || isChanged;
      isChanged = this.#accept(`solo ${stem}`, controls.soloed.includes(stem)) || isChanged;
    }
    isChanged = this.#accept("strength", controls.strength_db) || isChanged;
    isChanged = this.#accept("bypass", controls.is_bypassed) || isChanged;
    if (isChanged) this.#changed();
  }

  #set(name, value, message) {
    if (this.#values.get(name) === value) return;
    this.#keep(name, value);
    this.#send(message);
    this.#changed();
  }

  #keep(name, value) {
    const holdMs = name === "record" ? RECORD_HOLD_MS : HOLD_MS;
    this.#values.set(name, value);
    this.#pending.set(name, performance.now() + holdMs);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#latest && this.accept(this.#latest), holdMs + 1);
  }

  #accept(name, value) {
    if (this.#values.get(name) === value) return false;
    if (this.#held === name || performance.now() < this.#pending.get(name)) return false;
    this.#values.set(name, value);
    return true;
  }
}
