// A native range input in dB with its value as text, steps by the arrow keys as by the global
// keys, a value to go back to by double click, and no jumps while a person holds it.

import { freshId, make, setAttribute, setProperty, setText } from "./dom.js";

const STEPS = { ArrowUp: [1, 1], ArrowRight: [1, 1], ArrowDown: [-1, 1], ArrowLeft: [-1, 1],
  PageUp: [1, 6], PageDown: [-1, 6] };

export class Slider {
  #input;
  #output;
  #range;

  // Args: `label` for people and `spoken` for screen readers; `range` {min, max, step, reset},
  // with `reset` where a double click leads; `text(value)`; `actions` {change(value),
  // nudge(direction, steps), reset(), hold(), release()}.
  constructor({ label, spoken, range, text, actions }) {
    const id = freshId("slider");
    this.#range = range;
    this.text = text;
    this.#input = make("input", { type: "range", id, min: range.min, max: range.max,
      step: range.step, "aria-label": spoken });
    this.#output = make("output", { for: id, class: "value", title: "double-click to reset" });
    this.element = make("div", { class: "slider" },
      make("label", { for: id, text: label }), this.#output, this.#input);
    this.#mark(range.reset);
    this.#listen(actions);
  }

  // Shows a value and its place on the slider, without calling any action.
  show(value, place) {
    const { min, max } = this.#range;
    const bounded = Math.min(max, Math.max(min, place));
    setProperty(this.#input, "value", String(bounded));
    this.#input.style.setProperty("--share", String((bounded - min) / (max - min)));
    setText(this.#output, this.text(value));
    setAttribute(this.#input, "aria-valuetext", this.text(value));
  }

  // A tick where a double click leads.
  #mark(place) {
    const { min, max } = this.#range;
    this.#input.style.setProperty("--mark-share", String((place - min) / (max - min)));
  }

  #listen(actions) {
    const input = this.#input;
    input.addEventListener("input", () => actions.change(Number(input.value)));
    input.addEventListener("pointerdown", actions.hold);
    for (const type of ["pointerup", "pointercancel", "blur", "change"]) {
      input.addEventListener(type, actions.release);
    }
    for (const part of [input, this.#output]) part.addEventListener("dblclick", actions.reset);
    input.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      actions.nudge(...step);
    });
  }
}
