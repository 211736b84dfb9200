// The engine in the audio thread: separates and mixes each quantum with the library, and reports
// figures, the newest stems for the pictures and, while recording, sound. `process` allocates
// nothing; messages are copied from arrays that are made once.

import {
  BUSY_MS, FRAME, HOPS, LATE_HOPS, LEVELS, LONGEST_MS, MIXTURE_CLIPPED, NEW_HOPS, OUTPUT_CLIPPED,
} from "./live_report.js";
import { open } from "./rtmtass.js";

const REPORTS_HZ = 20;
const LONGEST_REPORT_S = 0.3; // of stems; a report that is late loses what is older
const TAKE_FRAMES = 4096; // of a piece of a recording
const WARM_UP_HOPS = 4; // a first call is slow
const CLIPPED = 32767 / 32768; // as rtmtass/live/meters.py
const CLIP_HOLD_S = 3;
const METER_S = 0.06;

class LiveProcessor extends AudioWorkletProcessor {
  constructor({ processorOptions: { module, model, messages } }) {
    super();
    const compiled = module instanceof WebAssembly.Module ? module : new WebAssembly.Module(module);
    const opened = open(compiled, model);
    this.stream = opened.stream({ sampleRate, output: "both" });
    this.hopMs = (1000 * opened.hop) / opened.sampleRate;
    this.inputs = [null];
    this.rows = Array.from({ length: this.stream.outputs }, () => new Float32Array(128));
    this.silence = new Float32Array(128);
    this.isRunning = true;
    this.warmUp(opened);
    for (const message of messages) this.set(message);
    this.stream.reset();
    this.prepareReports(opened);
    this.take = null; // {port, sound, filled}
    this.port.onmessage = ({ data }) => this.set(data);
    this.port.postMessage({ latency: this.stream.latency, sampleRate });
  }

  warmUp({ hop, sampleRate: modelRate }) {
    const quanta = Math.ceil((WARM_UP_HOPS * hop * sampleRate) / modelRate / 128);
    this.inputs[0] = this.silence;
    for (let i = 0; i < quanta; i++) this.stream.process(this.inputs, this.rows);
  }

  prepareReports({ hop, stems, sampleRate: modelRate }) {
    this.hopSize = hop * stems.length;
    this.mostHops = Math.ceil((LONGEST_REPORT_S * modelRate) / hop);
    this.report = {
      figures: new Float64Array(LEVELS + 2 * (stems.length + 2) + 2 * stems.length),
      stems: new Float32Array(this.mostHops * this.hopSize), // hop after hop, stem after stem
    };
    this.figures = this.report.figures;
    this.separatedAt = LEVELS + 2 * (stems.length + 2);
    this.hold = Math.exp(-128 / (METER_S * sampleRate));
    this.seen = 0;
    this.nextReport = 0;
    this.mixtureClipped = this.outputClipped = -Infinity; // frames
  }

  set(message) {
    const { stream } = this;
    if (message.do === "gain") stream.setGain(message.stem, message.db ?? -Infinity);
    else if (message.do === "mute") stream.setMute(message.stem, message.on);
    else if (message.do === "solo") stream.setSolo(message.stem, message.on);
    else if (message.do === "strength") stream.setStrength(message.db ?? Infinity);
    else if (message.do === "bypass") stream.setBypass(message.on);
    else if (message.do === "fade") this.fade();
    else if (message.do === "stop") this.isRunning = false;
    else if (message.do === "take") this.startTake(message.port);
    else if (message.do === "end take") this.endTake();
  }

  // Ramp to silence, as before a stop.
  fade() {
    for (const stem of this.stream.model.stems) this.stream.setMute(stem, true);
    this.stream.setBypass(false);
  }

  process([input], [output]) {
    this.inputs[0] = input[0] ?? this.silence;
    this.rows[0] = output[0];
    const began = Date.now(); // worklets have no finer clock; its means over many hops are fine
    this.stream.process(this.inputs, this.rows);
    const tookMs = Date.now() - began;
    this.figures[BUSY_MS] += tookMs;
    this.meterStems();
    if (this.stream.hops() !== this.seen) this.noteHop(tookMs);
    if (this.take) this.record(output[0].length);
    if (currentFrame >= this.nextReport) this.send();
    return this.isRunning;
  }

  // Update power and peak of every stem before its gain, with the time constant of the mixer's.
  meterStems() {
    const { figures, rows, hold } = this;
    for (let row = 1, at = this.separatedAt; row < rows.length; row++, at += 2) {
      const samples = rows[row];
      let power = 0, peak = hold * figures[at + 1];
      for (let i = 0; i < samples.length; i++) {
        const x = samples[i];
        power += x * x;
        peak = Math.max(peak, Math.abs(x));
      }
      figures[at] += (1 - hold) * (power / samples.length - figures[at]);
      figures[at + 1] = peak;
    }
  }

  noteHop(tookMs) {
    const { figures } = this;
    this.seen = this.stream.hops();
    if (tookMs > figures[LONGEST_MS]) figures[LONGEST_MS] = tookMs;
    if (tookMs > this.hopMs) figures[LATE_HOPS] += 1;
    if (figures[NEW_HOPS] < this.mostHops) {
      this.report.stems.set(this.stream.hopStems(), figures[NEW_HOPS] * this.hopSize);
      figures[NEW_HOPS] += 1;
    }
    const levels = this.stream.levels();
    figures.set(levels, LEVELS);
    if (levels[levels.length - 3] >= CLIPPED) this.mixtureClipped = currentFrame;
    if (levels[levels.length - 1] >= CLIPPED) this.outputClipped = currentFrame;
  }

  send() {
    const { figures } = this;
    const since = currentFrame - CLIP_HOLD_S * sampleRate;
    figures[FRAME] = currentFrame;
    figures[HOPS] = this.seen;
    figures[MIXTURE_CLIPPED] = this.mixtureClipped > since ? 1 : 0;
    figures[OUTPUT_CLIPPED] = this.outputClipped > since ? 1 : 0;
    this.port.postMessage(this.report);
    figures[NEW_HOPS] = 0;
    this.nextReport = currentFrame + sampleRate / REPORTS_HZ;
  }

  startTake(port) {
    const sound = new Float32Array(this.rows.length * TAKE_FRAMES);
    this.take = { port, piece: { sound, frames: TAKE_FRAMES }, filled: 0 };
  }

  // Append the mix and the stems to the piece of a recording, track after track.
  record(n) {
    const { take } = this;
    for (let row = 0; row < this.rows.length; row++) {
      take.piece.sound.set(this.rows[row], row * TAKE_FRAMES + take.filled);
    }
    take.filled += n;
    if (take.filled < TAKE_FRAMES) return;
    take.port.postMessage(take.piece);
    take.filled = 0;
  }

  endTake() {
    const { take } = this;
    if (!take) return;
    this.take = null;
    take.piece.frames = take.filled;
    take.port.postMessage(take.piece);
    take.port.postMessage({ end: true });
  }
}

registerProcessor("rtmtass-live", LiveProcessor);
