// A level meter from -60 to 0 dBFS: RMS as a bar, the held peak as a line and as a figure.

import { make, setAttribute, setText } from "./dom.js";
import { levelText } from "./format.js";

const FLOOR_DB = -60;
export const HOLD_MS = 1500; // as the terminal's display
const RED_DB = -1;
const FALL_MS = 90; // time constant of the bar; it rises at once
const FIGURE_MS = 200; // a figure that changes faster can't be read
const MARKS_DB = [-60, -40, -20, -10, 0];

// Where a level lies on the scale, 0 to 1.
export function fraction(db) {
  if (db === null || db === undefined) return 0;
  return Math.min(1, Math.max(0, 1 - db / FLOOR_DB));
}

// The recent maximum of a peak.
export class PeakHold {
  #heldDb = -Infinity;
  #since = 0;

  clear() { this.#heldDb = -Infinity; }

  update(db, now) {
    if (db >= this.#heldDb || now - this.#since > HOLD_MS) {
      this.#heldDb = db;
      this.#since = now;
    }
    return this.#heldDb;
  }
}

export class Meter {
  #level = make("i", { class: "level" });
  #before = make("i", { class: "before" });
  #peak = make("i", { class: "peak" });
  #bar;
  #hold = new PeakHold();
  #shown = new Map();
  #rms = 0;
  #target = { rms: 0, before: 0, peakDb: -Infinity, isMeasured: false };
  #figureAt = -Infinity;
  #last = 0;

  // `name` is spoken by screen readers: "Speech" makes "Speech level".
  constructor(name) {
    this.#bar = make("div", {
      class: "bar", role: "meter", "aria-label": `${name} level`, "aria-valuemin": FLOOR_DB,
      "aria-valuemax": 0, "aria-valuenow": FLOOR_DB, "aria-valuetext": "silent",
    }, this.#before, this.#level, this.#peak);
    this.figure = make("span", { class: "figure", title: "peak of the last 1.5 s, in dBFS" });
    const marks = MARKS_DB.map((db) => {
      const mark = make("span", { text: String(db).replace("-", "\u2212") });
      mark.style.left = `${100 * fraction(db)}%`;
      return mark;
    });
    const scale = make("div", { class: "scale", "aria-hidden": "true" }, ...marks);
    this.element = make("div", { class: "meter" }, this.#bar, this.figure, scale);
  }

  // Levels of a state in dBFS: null for silence, nothing while nothing is measured. `beforeDb`
  // is the RMS before the gain.
  update(rmsDb, peakDb, beforeDb) {
    if (rmsDb === undefined) this.#hold.clear();
    this.#target = { rms: fraction(rmsDb), before: fraction(beforeDb),
      peakDb: peakDb ?? -Infinity, isMeasured: rmsDb !== undefined };
  }

  draw(now) {
    const share = 1 - Math.exp(-Math.min(now - this.#last, 200) / FALL_MS);
    this.#last = now;
    const { rms, before, peakDb } = this.#target;
    this.#rms = rms > this.#rms ? rms : this.#rms + (rms - this.#rms) * share;
    const heldDb = this.#hold.update(peakDb, now);
    this.#move(this.#level, "scaleX", this.#rms);
    this.#move(this.#before, "scaleX", before);
    this.#move(this.#peak, "translateX", fraction(heldDb));
    this.#describe(heldDb, now);
  }

  // Moves a part, unless it would be by less than a pixel.
  #move(part, kind, value) {
    const rounded = Math.round(1000 * value) / 1000;
    if (this.#shown.get(part) === rounded) return;
    this.#shown.set(part, rounded);
    part.style.transform = `${kind}(${kind === "scaleX" ? rounded : `${100 * rounded}%`})`;
  }

  #describe(heldDb, now) {
    if (now - this.#figureAt < FIGURE_MS) return;
    this.#figureAt = now;
    const isSilent = heldDb === -Infinity;
    const text = levelText(isSilent ? null : heldDb);
    setText(this.figure, this.#target.isMeasured ? text : "");
    setAttribute(this.#bar, "data-red", heldDb > RED_DB);
    setAttribute(this.#bar, "data-silent", isSilent || heldDb <= FLOOR_DB);
    setAttribute(this.#bar, "aria-valuenow", Math.round(Math.max(FLOOR_DB, Math.min(0, heldDb))));
    setAttribute(this.#bar, "aria-valuetext", isSilent ? "silent" : `peak ${text} dBFS`);
  }
}
