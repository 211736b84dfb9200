// The mix's settings where there is no server: the page's messages are checked and applied, and
// what was set comes back with the next visit.

const LOWEST_GAIN_DB = -60, LARGEST_GAIN_DB = 20, LARGEST_STRENGTH_DB = 60; // rtmtass/live
const KEY = "rtmtass";

const isLevel = (db, low, high) => db === null || (Number.isFinite(db) && db >= low && db <= high);
const isSwitch = (on) => typeof on === "boolean";

// What each message may hold beside `do`; a stem is checked where it may be named.
const CHECKS = {
  gain: { db: (db) => isLevel(db, LOWEST_GAIN_DB, LARGEST_GAIN_DB) },
  mute: { on: isSwitch },
  solo: { on: isSwitch },
  strength: { db: (db) => isLevel(db, 0, LARGEST_STRENGTH_DB) },
  bypass: { on: isSwitch },
  record: { on: isSwitch },
  reset: {},
};
const OF_A_STEM = ["gain", "mute", "solo"];

export class Controls {
  constructor(stems, storage) {
    this.stems = stems;
    this.storage = storage;
    this.kept = restored(storage);
    this.state = {
      selected: stems[0],
      gains_db: Object.fromEntries(stems.map((stem) => [stem, 0])),
      muted: [], soloed: [], strength_db: null, is_bypassed: false, can_record: true,
    };
    for (const message of this.kept.messages) {
      if (!this.problem(message) && message.do !== "record") this.apply(message);
    }
  }

  // Return why a message isn't one that changes settings; empty if it is.
  problem(message) {
    if (typeof message !== "object" || message === null) return "a message must be an object";
    if (!Object.hasOwn(CHECKS, message.do)) return `unknown message ${String(message.do)}`;
    const checks = { ...CHECKS[message.do] };
    if (OF_A_STEM.includes(message.do)) checks.stem = (stem) => this.stems.includes(stem);
    const names = Object.keys(message).filter((name) => name !== "do");
    const wrong = names.find((name) => !Object.hasOwn(checks, name))
      ?? Object.keys(checks).find((name) => !checks[name](message[name]));
    return wrong === undefined ? "" : `${message.do}: ${wrong} isn't allowed or out of range`;
  }

  // Apply a message without a problem.
  apply({ do: what, stem, db, on }) {
    const { state } = this;
    const switched = (names) => names.filter((name) => name !== stem).concat(on ? [stem] : []);
    if (what === "gain") state.gains_db = { ...state.gains_db, [stem]: db };
    else if (what === "mute") state.muted = switched(state.muted).sort();
    else if (what === "solo") state.soloed = switched(state.soloed).sort();
    else if (what === "strength") state.strength_db = db;
    else if (what === "bypass") state.is_bypassed = on;
    else if (what === "reset") {
      state.gains_db = Object.fromEntries(this.stems.map((name) => [name, 0]));
      state.muted = [];
      state.soloed = [];
    }
    this.keep();
  }

  // Return the messages that bring another mixer to these settings.
  messages() {
    const { gains_db, muted, soloed, strength_db, is_bypassed } = this.state;
    return [
      ...this.stems.flatMap((stem) => [
        { do: "gain", stem, db: gains_db[stem] },
        { do: "mute", stem, on: muted.includes(stem) },
        { do: "solo", stem, on: soloed.includes(stem) },
      ]),
      { do: "strength", db: strength_db },
      { do: "bypass", on: is_bypassed },
    ];
  }

  get devices() { return this.kept.devices; }

  keepDevices(input, output) {
    this.kept.devices = { input, output };
    this.keep();
  }

  keep() {
    const messages = this.messages().filter((message) => message.do !== "bypass");
    try {
      this.storage?.setItem(KEY, JSON.stringify({ messages, devices: this.kept.devices }));
    } catch {
      // Full or forbidden: the settings last as long as the page.
    }
  }
}

function restored(storage) {
  try {
    const { messages, devices } = JSON.parse(storage.getItem(KEY));
    const known = (id) => (typeof id === "string" ? id : null);
    return {
      messages: Array.isArray(messages) ? messages : [],
      devices: { input: known(devices?.input), output: known(devices?.output) },
    };
  } catch {
    return { messages: [], devices: { input: null, output: null } };
  }
}
