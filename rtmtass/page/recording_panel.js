// A separated recording: its tracks over each other, played together under one play head, with a
// fader each, and its downloads.

import { make, setAttribute, setProperty, setText } from "./dom.js";
import { Downloads } from "./downloads.js";
import { capitalised, clock } from "./format.js";
import { keyOf } from "./keys.js";
import { Meter } from "./meter.js";
import { mixFactors } from "./mix_factors.js";
import { clipBadge, createStrength, showStrength } from "./output_panel.js";
import { Player } from "./player.js";
import { Settings } from "./settings.js";
import { Slider } from "./slider.js";
import { StemControls } from "./stem_controls.js";
import { Lane, createRuler, scaleOf } from "./waveform.js";

const JUMP_S = 5;
const METER_FALLS_MS = 2500; // drawn on for so long after a pause
const CLIP_HOLD_MS = 3000;
const PATIENCE_MS = 500; // before a wait for samples is shown
const OWN_KEYS = { " ": "button, select, textarea, a, input:not([type=range]), dialog",
  Home: "input, dialog", End: "input, dialog" };
const CHANNELS = { 1: "mono", 2: "stereo" };
const HINT = "Space plays and pauses, \u2190 and \u2192 jump 5 s, B is the original, 0 resets.";

const toDb = (value) => (value > 1e-6 ? 20 * Math.log10(value) : null);

export class RecordingPanel {
  #recording;
  #stems;
  #settings;
  #player;
  #lanes;
  #tracks = [];
  #kind = "waveform";
  #overview = null;
  #picture = null;
  #held = null; // where a person drags the play head to, in frames
  #isDrawing = false;
  #playedAt = -Infinity;
  #clippedAt = -Infinity;
  #waitingSince = null;
  #meter = new Meter("Output");
  #clip = clipBadge();
  #problem = make("p", { class: "notice bad", role: "alert", hidden: true });
  #play;
  #original;
  #position;
  #strength;
  #kinds;
  #downloads;

  // Args: the recording, and `actions` {close(), choose()}.
  constructor(recording, actions) {
    this.#recording = recording;
    this.#stems = recording.tracks.slice(1);
    this.#settings = new Settings(this.#stems, () => {}, () => this.#mix());
    this.#player = new Player(recording, {
      changed: () => this.#follow(),
      levels: (rms, peak) => this.#measure(rms, peak),
      failed: (error) => this.#fail(error),
    });
    this.#lanes = recording.tracks.map((name, row) => new Lane(row, name, this.#stems));
    this.#lanes.forEach((lane) => this.#listenToLane(lane.element));
    this.#downloads = new Downloads(recording, () => controlsOf(this.#settings));
    this.element = make("div", { class: "recording-panel" }, this.#createHead(actions),
      this.#problem, this.#createTransport(), this.#createTracks(), this.#downloads.element);
    this.#mix();
    this.#follow();
  }

  // Reads and draws the overview.
  async load() {
    this.#overview = await this.#recording.overview();
    this.#drawLanes();
    if (this.element.offsetParent !== null) this.#play.focus({ preventScroll: true });
  }

  close() {
    this.#player.close();
    this.#recording.close();
  }

  // Applies a key press of the page.
  press(event) {
    const key = event.key === "Home" || event.key === "End" ? event.key : keyOf(event);
    const actions = { left: () => this.#jump(-JUMP_S), right: () => this.#jump(JUMP_S),
      Home: () => this.#player.seek(0), End: () => this.#player.seek(this.#recording.frames),
      " ": () => this.#toggle(), b: () => this.#toggleOriginal(), 0: () => this.#settings.reset() };
    if (!Object.hasOwn(actions, key ?? "")) return;
    if (event.target.closest?.(OWN_KEYS[key] ?? "dialog")) return; // an element's own
    event.preventDefault();
    actions[key]();
  }

  // --- parts of the panel

  #createHead({ close, choose }) {
    const { name, sampleRate, channels, frames, clipped = {} } = this.#recording;
    const about = [clock(frames / sampleRate), `${sampleRate / 1000} kHz`,
      CHANNELS[channels] ?? `${channels} channels`];
    const counts = Object.entries(clipped).map(([stem, count]) => `${count} in ${stem}`);
    if (counts.length) about.push(`samples clipped at full scale: ${counts.join(", ")}`);
    return make("header", { class: "card recording-head" },
      make("div", { class: "recording-name" }, make("h2", { text: name }),
        make("p", { class: "quiet", text: about.join(" \u00b7 ") })),
      make("button", { text: "Another file\u2026", on: { click: choose } }),
      make("button", { class: "plain", text: "Close", on: { click: close } }));
  }

  #createTransport() {
    this.#play = make("button", { class: "primary", text: "Play",
      on: { click: () => this.#toggle() } });
    this.#original = make("button", { class: "toggle bypass", text: "Original",
      title: "the recording as it was, in place of the mix", "aria-pressed": "false",
      on: { click: () => this.#toggleOriginal() } });
    const durationS = this.#recording.frames / this.#recording.sampleRate;
    this.#position = new Slider({
      label: "Position", spoken: "Position",
      text: (seconds) => `${clock(seconds)} / ${clock(durationS)}`,
      range: { min: 0, max: durationS, step: 0.01, reset: 0 },
      actions: {
        change: (seconds) => this.#drag(seconds * this.#recording.sampleRate),
        nudge: (direction, steps) => this.#jump(direction * steps * JUMP_S),
        reset: () => {},
        hold: () => this.#drag(this.#player.position),
        release: () => this.#drop(),
      },
    });
    const output = make("div", { class: "file-output" },
      make("div", { class: "head" }, make("label", { text: "Output" }), this.#clip),
      this.#meter.element);
    return make("section", { class: "card transport", "aria-label": "Player" },
      make("div", { class: "transport-buttons" }, this.#play, this.#original),
      this.#position.element, output);
  }

  #createTracks() {
    const [mixture, ...lanes] = this.#lanes;
    this.#kinds = ["waveform", "spectrogram"].map((kind) => make("button", {
      text: capitalised(kind), "aria-pressed": String(kind === this.#kind),
      on: { click: () => this.#showKind(kind) } }));
    this.#strength = createStrength(this.#settings);
    this.#tracks = this.#stems.map((stem, k) => new Track(stem, this.#settings, lanes[k]));
    return make("section", { class: "card tracks", "aria-label": "Tracks" },
      make("div", { class: "track mixture-track" },
        make("div", { class: "track-head" }, make("h2", { text: "Mixture" }),
          make("div", { class: "tabs kinds", role: "group", "aria-label": "Show as" },
            ...this.#kinds), this.#strength.element),
        mixture.element),
      make("div", { class: "track ruler-track" },
        createRuler(this.#recording.frames / this.#recording.sampleRate)),
      ...this.#tracks.map((track) => track.element),
      make("p", { class: "quiet keys-hint", text: HINT }));
  }

  // --- the play head

  #listenToLane(element) {
    const frameAt = (event) => {
      const { left, width } = element.getBoundingClientRect();
      return ((event.clientX - left) / width) * this.#recording.frames;
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      element.setPointerCapture(event.pointerId);
      this.#drag(frameAt(event));
    });
    element.addEventListener("pointermove", (event) => {
      if (this.#held !== null && element.hasPointerCapture(event.pointerId)) {
        this.#drag(frameAt(event));
      }
    });
    element.addEventListener("pointerup", () => this.#drop());
    element.addEventListener("pointercancel", () => {
      this.#held = null;
      this.#follow();
    });
  }

  #drag(frame) {
    this.#held = Math.min(this.#recording.frames, Math.max(0, frame));
    this.#follow();
  }

  #drop() {
    if (this.#held === null) return;
    const frame = this.#held;
    this.#held = null;
    this.#player.seek(frame);
  }

  #jump(seconds) {
    this.#player.seek(this.#player.position + seconds * this.#recording.sampleRate);
  }

  #toggle() {
    setProperty(this.#problem, "hidden", true);
    if (this.#player.isPlaying) this.#player.pause();
    else this.#player.play();
  }

  #toggleOriginal() {
    this.#settings.setBypass(!this.#settings.isBypassed);
  }

  // --- what changed

  #mix() {
    const controls = controlsOf(this.#settings);
    const factors = mixFactors(controls);
    this.#player.setMix(this.#stems.map((stem) => factors[stem]), this.#settings.isBypassed);
    this.#tracks.forEach((track) => track.show());
    const { strength, isBypassed } = this.#settings;
    showStrength(this.#strength, strength);
    setAttribute(this.#original, "aria-pressed", isBypassed);
    setAttribute(this.element, "data-bypassed", isBypassed);
    this.#downloads.update();
  }

  #follow() {
    setText(this.#play, this.#player.isPlaying ? "Pause" : "Play");
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame((now) => this.#draw(now));
  }

  #draw(now) {
    this.#isDrawing = false;
    const frame = this.#held ?? this.#player.position;
    const { frames, sampleRate } = this.#recording;
    for (const lane of this.#lanes) lane.moveHead(frame / frames);
    this.#position.show(frame / sampleRate, frame / sampleRate);
    if (this.#player.isPlaying) this.#playedAt = now;
    else this.#meter.update(null, null);
    this.#meter.draw(now);
    setAttribute(this.#clip, "data-on", now - this.#clippedAt < CLIP_HOLD_MS);
    this.#showWait(now);
    if (now - this.#playedAt < METER_FALLS_MS) this.#follow();
  }

  // Says that samples are late, unless they come soon.
  #showWait(now) {
    if (!this.#player.isWaiting) this.#waitingSince = null;
    else this.#waitingSince ??= now;
    const isLong = this.#waitingSince !== null && now - this.#waitingSince > PATIENCE_MS;
    setAttribute(this.#play, "aria-busy", isLong);
  }

  #measure(rms, peak) {
    this.#meter.update(toDb(rms), toDb(peak));
    if (peak > 1) this.#clippedAt = performance.now();
  }

  async #showKind(kind) {
    this.#kind = kind;
    for (const button of this.#kinds) {
      setAttribute(button, "aria-pressed", button.textContent.toLowerCase() === kind);
    }
    try {
      if (kind === "spectrogram") this.#picture ??= await this.#recording.picture();
      this.#drawLanes();
    } catch (error) {
      this.#fail(error);
    }
  }

  #drawLanes() {
    const isPicture = this.#kind === "spectrogram" && this.#picture;
    const scale = scaleOf(this.#overview);
    for (const lane of this.#lanes) {
      if (isPicture) lane.showSpectrogram(this.#picture);
      else lane.showWaveform(this.#overview, scale);
    }
  }

  #fail(error) {
    setText(this.#problem, error.message);
    setProperty(this.#problem, "hidden", false);
  }
}

// A stem: its controls beside its picture.
class Track {
  #controls;

  constructor(stem, settings, lane) {
    this.#controls = new StemControls(stem, settings);
    this.element = make("section", { class: "track strip", "data-stem": stem,
      "aria-label": capitalised(stem) },
    make("div", { class: "track-head" }, this.#controls.head, this.#controls.fader),
    lane.element);
  }

  // Shows the settings.
  show() {
    this.#controls.show(this.element);
  }
}

// The settings as a backend's `controls`.
function controlsOf(settings) {
  const { stems } = settings;
  return {
    gains_db: Object.fromEntries(stems.map((stem) => [stem, settings.gain(stem)])),
    muted: stems.filter((stem) => settings.isMuted(stem)),
    soloed: stems.filter((stem) => settings.isSoloed(stem)),
    strength_db: settings.strength,
    is_bypassed: settings.isBypassed,
  };
}
