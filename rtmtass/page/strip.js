// The strip of one stem: its picture, meter, mute, solo and fader.

import { make, setAttribute } from "./dom.js";
import { capitalised, gainText } from "./format.js";
import { Meter } from "./meter.js";
import { LOWEST_GAIN_DB, steppedGain } from "./settings.js";
import { Slider } from "./slider.js";
import { Spectrogram, colourOf, stemPainter } from "./spectrogram.js";

const COLUMNS = 240; // visible, about 4 s
const STEP_DB = 0.5;
const OFF_DB = LOWEST_GAIN_DB - STEP_DB; // the fader's lower end is silence
const TOP_DB = 12;

export class Strip {
  #stem;
  #settings;
  #mute;
  #solo;
  #fader;

  // Args: the stem's name, its number in the pictures from 0, the Settings, and `select`, called
  // with the name when a person turns to this strip.
  constructor(stem, index, settings, select) {
    const name = capitalised(stem);
    this.#stem = stem;
    this.#settings = settings;
    this.picture = new Spectrogram(`Spectrogram of ${stem}`, COLUMNS,
      stemPainter(index + 1, colourOf(stem)));
    this.meter = new Meter(name);
    this.#mute = toggle("Mute", `Mute ${stem}`, "mute", () =>
      settings.setMute(stem, !settings.isMuted(stem)));
    this.#solo = toggle("Solo", `Solo ${stem}`, "solo", () =>
      settings.setSolo(stem, !settings.isSoloed(stem)));
    this.#fader = this.#createFader(name);
    this.element = make("section", { class: "card strip", "data-stem": stem, "aria-label": name },
      make("div", { class: "head" }, make("h2", { text: name }), this.#mute, this.#solo),
      this.picture.element, this.meter.element, this.#fader.element);
    this.element.addEventListener("focusin", () => select(stem));
    this.element.addEventListener("pointerdown", () => select(stem));
  }

  #createFader(name) {
    const stem = this.#stem, settings = this.#settings;
    return new Slider({
      label: "Gain", spoken: `${name} gain`, text: gainText,
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

  // Shows the settings.
  show(isSelected) {
    const gainDb = this.#settings.gain(this.#stem);
    this.#fader.show(gainDb, gainDb ?? OFF_DB);
    setAttribute(this.#mute, "aria-pressed", this.#settings.isMuted(this.#stem));
    setAttribute(this.#solo, "aria-pressed", this.#settings.isSoloed(this.#stem));
    setAttribute(this.element, "data-selected", isSelected);
    setAttribute(this.element, "data-silent", !this.#settings.isAudible(this.#stem));
  }

  // Shows the levels of a state; null while nothing runs.
  measure(levels) {
    const [rmsDb, peakDb] = levels?.stems[this.#stem] ?? [];
    this.meter.update(rmsDb, peakDb, levels?.separated[this.#stem]?.[0]);
  }
}

function toggle(text, label, kind, click) {
  return make("button", { class: `toggle ${kind}`, text, "aria-label": label,
    "aria-pressed": "false", on: { click } });
}
