// The panel of the mix: its level, strength, bypass and recording.

import { make, setAttribute, setProperty, setText } from "./dom.js";
import { clock, strengthText } from "./format.js";
import { Meter } from "./meter.js";
import { LARGEST_STRENGTH_DB, steppedStrength } from "./settings.js";
import { Slider } from "./slider.js";

const BYPASSED = "The output is the input, as loud as the mix.";
const NO_LIMIT = LARGEST_STRENGTH_DB + 1; // the slider's upper end

export class OutputPanel {
  #settings;
  #strength;
  #bypass;
  #record;
  #time = make("span", { class: "time", "aria-hidden": "true" });
  #clip = clipBadge();
  #note = make("p", { class: "note", role: "status" });

  constructor(settings) {
    this.#settings = settings;
    this.meter = new Meter("Output");
    this.#strength = createStrength(settings);
    this.#bypass = make("button", { class: "toggle bypass", text: "Bypass",
      title: "the input, equally loud", on: {
        click: () => settings.setBypass(!settings.isBypassed) } });
    this.#record = make("button", { class: "toggle record", on: {
      click: () => settings.setRecord(!settings.isRecording) } },
    make("i", { class: "lamp", "aria-hidden": "true" }), "Record", this.#time);
    const reset = make("button", { class: "plain", text: "Reset",
      title: "all gains to 0 dB, nothing muted or soloed", on: { click: () => settings.reset() } });
    this.element = make("section", { class: "card output", "aria-label": "Output" },
      make("div", { class: "head" }, make("h2", { text: "Output" }), this.#clip, reset),
      make("div", { class: "actions" }, this.#bypass, this.#record, this.#note),
      this.meter.element, this.#strength.element);
  }

  // Shows the settings.
  show() {
    const { strength, isBypassed, isRecording } = this.#settings;
    showStrength(this.#strength, strength);
    setAttribute(this.#bypass, "aria-pressed", isBypassed);
    setAttribute(this.#record, "aria-pressed", isRecording);
  }

  // Shows the levels and the recording of a state.
  measure(state) {
    const levels = state.stats?.levels, recording = state.stats?.recording;
    this.meter.update(...(levels?.output ?? []));
    setAttribute(this.#clip, "data-on", Boolean(levels?.clipped.includes("output")));
    const canRecord = state.running && state.controls.can_record;
    setProperty(this.#record, "disabled", !canRecord && !this.#settings.isRecording);
    setText(this.#time, recording?.is_running ? clock(recording.seconds) : "");
    const bypassText = this.#settings.isBypassed ? BYPASSED : "";
    setText(this.#note, recordingText(recording) || bypassText);
  }
}

// The slider of the strength; `showStrength` shows it.
export function createStrength(settings) {
  return new Slider({
    label: "Strength", spoken: "Strength: how far the other stems are turned down",
    text: strengthText,
    range: { min: 0, max: NO_LIMIT, step: 1, reset: NO_LIMIT },
    actions: {
      change: (db) => settings.setStrength(db > LARGEST_STRENGTH_DB ? null : db),
      nudge: (direction, steps) =>
        settings.setStrength(steppedStrength(settings.strength, direction, steps)),
      reset: () => settings.setStrength(null),
      hold: () => settings.hold("strength"),
      release: () => settings.release(),
    },
  });
}

export function showStrength(slider, strength) {
  slider.show(strength, strength ?? NO_LIMIT);
}

// The mark of a signal that reached full scale in the last seconds.
export function clipBadge() {
  return make("span", { class: "clip", text: "Clip", "data-on": "false",
    title: "full scale was reached in the last 3 s" });
}

function recordingText(recording) {
  if (!recording) return "";
  if (!recording.is_running) return recording.message || "";
  const parts = recording.folder ? [recording.folder] : [];
  if (recording.left_s > 0) parts.push(`room for ${clock(recording.left_s)}`);
  return parts.join(" \u00b7 ");
}
