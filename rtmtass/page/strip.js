// The strip of one stem: its picture, meter, mute, solo and fader.

import { make, setAttribute } from "./dom.js";
import { capitalised } from "./format.js";
import { Meter } from "./meter.js";
import { Spectrogram, colourOf, stemPainter } from "./spectrogram.js";
import { StemControls } from "./stem_controls.js";

const COLUMNS = 240; // visible, about 4 s

export class Strip {
  #stem;
  #controls;

  // Args: the stem's name, its number in the pictures from 0, the Settings, and `select`, called
  // with the name when a person turns to this strip.
  constructor(stem, index, settings, select) {
    const name = capitalised(stem);
    this.#stem = stem;
    this.#controls = new StemControls(stem, settings);
    this.picture = new Spectrogram(`Spectrogram of ${stem}`, COLUMNS,
      stemPainter(index + 1, colourOf(stem)));
    this.meter = new Meter(name);
    this.element = make("section", { class: "card strip", "data-stem": stem, "aria-label": name },
      this.#controls.head, this.picture.element, this.meter.element, this.#controls.fader);
    this.element.addEventListener("focusin", () => select(stem));
    this.element.addEventListener("pointerdown", () => select(stem));
  }

  // Shows the settings.
  show(isSelected) {
    this.#controls.show(this.element);
    setAttribute(this.element, "data-selected", isSelected);
  }

  // Shows the levels of a state; null while nothing runs.
  measure(levels) {
    const [rmsDb, peakDb] = levels?.stems[this.#stem] ?? [];
    this.meter.update(rmsDb, peakDb, levels?.separated[this.#stem]?.[0]);
  }
}
