// The Live view: pictures, meters and faders of a running stream, drawn once per frame.

import { DeviceBar } from "./device_bar.js";
import { make, setAttribute, setProperty, setText } from "./dom.js";
import { Figures, Messages } from "./figures.js";
import { capitalised } from "./format.js";
import { Meter } from "./meter.js";
import { OutputPanel, clipBadge } from "./output_panel.js";
import { Settings, steppedGain, steppedStrength } from "./settings.js";
import { Columns, Scroll, Spectrogram, colourOf, height, mixturePainter } from "./spectrogram.js";
import { Strip } from "./strip.js";

const COLUMNS = 500; // visible of the mixture, 8 s
const KEPT_COLUMNS = 640;
const REST_MS = 3000; // drawing ends this long after the last state of a running stream,
const SETTLE_MS = 500; // and this long after that of a stopped one
const FREQUENCIES = [[250, "250 Hz"], [1000, "1 kHz"], [4000, "4 kHz"]];

export class LiveView {
  #backend;
  #notices;
  #settings;
  #bar;
  #strips;
  #output;
  #figures = new Figures();
  #messages = new Messages();
  #columns = new Columns(KEPT_COLUMNS);
  #scroll;
  #mixture;
  #input = new Meter("Input");
  #clip = clipBadge();
  #hint = make("p", { class: "screen-text" });
  #selected;
  #terminalSelected = null;
  #state = null;
  #isNew = false;
  #drawUntil = 0;
  #frame = 0;
  #stillness = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(backend, notices) {
    const { stems, sampleRate } = backend.about;
    this.#backend = backend;
    this.#notices = notices;
    this.#scroll = new Scroll(sampleRate);
    this.#settings = new Settings(stems, (message) => backend.set(message),
      () => this.#showSettings());
    this.#selected = stems[0];
    this.#bar = new DeviceBar(backend, notices);
    this.#strips = stems.map((stem, index) =>
      new Strip(stem, index, this.#settings, (name) => this.#select(name)));
    this.#output = new OutputPanel(this.#settings);
    this.#mixture = new Spectrogram("Spectrogram of the mixture", COLUMNS,
      mixturePainter(stems.map(colourOf)));
    this.mixer = make("fieldset", { class: "mixer", "aria-label": "Mixer" },
      ...this.#strips.map((strip) => strip.element), this.#output.element);
    this.element = make("div", { class: "live" }, this.#bar.element, this.#mixtureCard(stems),
      this.mixer, this.#figures.element, this.#messages.element);
    this.#showSettings();
    this.#showMissing();
    backend.listen({
      state: (state) => this.#accept(state),
      picture: (picture) => this.#columns.add(picture),
      closed: (reason) => this.#lose(reason),
    });
    this.#bar.refresh();
  }

  #mixtureCard(stems) {
    const legend = stems.map((stem) => make("span", { "data-stem": stem,
      text: capitalised(stem) }));
    const marks = FREQUENCIES.map(([hz, text]) => {
      const mark = make("span", { text });
      mark.style.bottom = `${100 * height(hz)}%`;
      return mark;
    });
    this.#mixture.element.append(make("div", { class: "frequencies", "aria-hidden": "true" },
      ...marks), this.#hint);
    return make("section", { class: "card mixture", "aria-label": "Mixture" },
      make("div", { class: "head" }, make("h2", { text: "Mixture" }),
        make("div", { class: "legend" }, ...legend), this.#clip,
        make("span", { class: "label", text: "Input" }), this.#input.element),
      this.#mixture.element);
  }

  // Applies a key of KEYS; unknown ones do nothing.
  press(key) {
    const settings = this.#settings, stem = this.#selected, stems = settings.stems;
    if (this.mixer.disabled) return;
    const place = stems.indexOf(stem);
    const actions = {
      left: () => this.#select(stems[(place + stems.length - 1) % stems.length]),
      right: () => this.#select(stems[(place + 1) % stems.length]),
      up: () => settings.setGain(stem, steppedGain(settings.gain(stem), 1)),
      down: () => settings.setGain(stem, steppedGain(settings.gain(stem), -1)),
      m: () => settings.setMute(stem, !settings.isMuted(stem)),
      s: () => settings.setSolo(stem, !settings.isSoloed(stem)),
      "[": () => settings.setStrength(steppedStrength(settings.strength, -1)),
      "]": () => settings.setStrength(steppedStrength(settings.strength, 1)),
      b: () => settings.setBypass(!settings.isBypassed),
      r: () => this.#record(),
      0: () => settings.reset(),
      q: () => this.#bar.stop(),
    };
    if (Object.hasOwn(actions, key)) actions[key]();
  }

  // Starts to draw, when the view is shown.
  wake() {
    this.#drawUntil = performance.now() + (this.#state?.running ? REST_MS : SETTLE_MS);
    if (!this.#frame) this.#frame = requestAnimationFrame((now) => this.#draw(now));
  }

  #record() {
    const { running, controls } = this.#state ?? {};
    if (running && controls.can_record) this.#settings.setRecord(!this.#settings.isRecording);
  }

  #select(stem) {
    this.#selected = stem;
    this.#showSettings();
  }

  #showSettings() {
    for (const strip of this.#strips) {
      strip.show(strip.element.dataset.stem === this.#selected);
    }
    this.#output.show();
    setAttribute(this.element, "data-bypassed", this.#settings.isBypassed);
  }

  get #canLive() { return this.#backend.canLive ?? true; }

  #showMissing() {
    const { missing } = this.#backend;
    missing.forEach((line, index) => this.#notices.set(`missing ${index}`, line));
    this.#bar.isAvailable = this.#canLive;
  }

  #accept(state) {
    if (this.#state && state.running && !this.#state.running) this.#clear();
    this.#state = state;
    this.#isNew = true;
    setProperty(this.mixer, "disabled", false);
    this.#notices.set("closed", "");
    this.#notices.set("problem", state.problem);
    this.#notices.set("advice", state.stats?.advice || state.stats?.device?.advice, "hint");
    this.#followTerminal(state.controls.selected);
    this.#settings.accept(state);
    this.#bar.accept(state);
    this.wake();
  }

  // The terminal's display chooses a stem by its own keys.
  #followTerminal(stem) {
    if (stem === this.#terminalSelected) return;
    this.#terminalSelected = stem;
    if (this.#settings.stems.includes(stem)) this.#select(stem);
  }

  #lose(reason) {
    this.#notices.set("closed", reason, "wait");
    setProperty(this.mixer, "disabled", true);
    this.#bar.lose();
    if (this.#state) this.#state = { ...this.#state, running: false, stats: null };
    this.#isNew = true;
    this.wake();
  }

  #clear() {
    this.#columns.count = 0;
    this.#scroll.position = 0;
    for (const picture of this.#pictures()) picture.clear(0);
  }

  #pictures() {
    return [this.#mixture, ...this.#strips.map((strip) => strip.picture)];
  }

  #draw(now) {
    const isShown = this.element.offsetParent !== null;
    this.#frame = isShown && performance.now() < this.#drawUntil
      ? requestAnimationFrame((next) => this.#draw(next)) : 0;
    if (this.#isNew) this.#measure();
    this.#figures.update(this.#state?.stats, now);
    const position = this.#scroll.advance(now, this.#columns.count);
    for (const picture of this.#pictures()) {
      picture.draw(this.#columns, position, this.#stillness.matches);
    }
    for (const { meter } of [...this.#strips, this.#output]) meter.draw(now);
    this.#input.draw(now);
  }

  // Shows what the newest state measures.
  #measure() {
    this.#isNew = false;
    const state = this.#state;
    if (!state) return;
    const levels = state.stats?.levels;
    for (const strip of this.#strips) strip.measure(levels);
    this.#output.measure(state);
    this.#input.update(...(levels?.mixture ?? []));
    setAttribute(this.#clip, "data-on", Boolean(levels?.clipped.includes("mixture")));
    this.#messages.update(state.messages);
    setAttribute(this.element, "data-running", state.running);
    setText(this.#hint, this.#idleText());
  }

  // What is said on the blank screen.
  #idleText() {
    if (this.#state.running || this.#columns.count) return "";
    if (!this.#backend.about.canChoose) return "The stream in the terminal has ended.";
    if (!this.#canLive) return "Live sound can't be separated here; the line above says why.";
    const where = this.#backend.kind === "browser" ? " Nothing leaves your browser." : "";
    return "Press Start to split your input into speech, music and noise."
      + ` Use headphones, or the microphone picks up the output.${where}`;
  }
}
