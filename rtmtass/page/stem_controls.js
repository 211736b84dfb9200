// Mute, solo and fader of a stem: the same in the live mixer's strips and on a recording's tracks.

import { make, setAttribute } from "./dom.js";
import { capitalised, gainText } from "./format.js";
import { LOWEST_GAIN_DB, steppedGain } from "./settings.js";
import { Slider } from "./slider.js";

const STEP_DB = 0.5;
const OFF_DB = LOWEST_GAIN_DB - STEP_DB; // the fader's lower end is silence
const TOP_DB = 12;

export class StemControls {
  #stem;
  #settings;
  #mute;
  #solo;
  #fader;

  constructor(stem, settings) {
    this.#stem = stem;
    this.#settings = settings;
    this.#mute = toggle("Mute", `Mute ${stem}`, "mute", () =>
      settings.setMute(stem, !settings.isMuted(stem)));
    this.#solo = toggle("Solo", `Solo ${stem}`, "solo", () =>
      settings.setSolo(stem, !settings.isSoloed(stem)));
    this.#fader = createFader(stem, settings);
    this.head = make("div", { class: "head" }, make("h2", { text: capitalised(stem) }),
      this.#mute, this.#solo);
    this.fader = this.#fader.element;
  }

  // Shows the settings, on the element around the controls too.
  show(element) {
    const gainDb = this.#settings.gain(this.#stem);
    this.#fader.show(gainDb, gainDb ?? OFF_DB);
    setAttribute(this.#mute, "aria-pressed", this.#settings.isMuted(this.#stem));
    setAttribute(this.#solo, "aria-pressed", this.#settings.isSoloed(this.#stem));
    setAttribute(element, "data-silent", !this.#settings.isAudible(this.#stem));
  }
}

function createFader(stem, settings) {
  return new Slider({
    label: "Gain", spoken: `${capitalised(stem)} gain`, text: gainText,
    range: { min: OFF_DB, max: TOP_DB, step: STEP_DB, reset: 0 },
    actions: {
      change: (db) => settings.setGain(stem, db < LOWEST_GAIN_DB ? null : db),
      nudge: (direction, steps) =>
        settings.setGain(stem, steppedGain(settings.gain(stem), direction, steps)),
      reset: () => settings.setGain(stem, 0),
      hold: () => settings.hold(`gain ${stem}`),
      release: () => settings.release(),
    },
  });
}

function toggle(text, label, kind, click) {
  return make("button", { class: `toggle ${kind}`, text, "aria-label": label,
    "aria-pressed": "false", on: { click } });
}
