// Figures of a live session in the shape of rtmtass/live/stats.py, from the audio thread's reports
// and from the clocks of the page.

import {
  BUSY_MS, FRAME, HOPS, LATE_HOPS, LEVELS, LONGEST_MS, MIXTURE_CLIPPED, OUTPUT_CLIPPED,
} from "./live_report.js";

const FLOOR_DB = -120; // below it a level counts as silence
const RECENT_S = 1, LONG_S = 60;
const LOSS_MS = 2; // by which the sound falls behind the clock when a buffer was missed
const LOSS_READINGS = 8; // over which the smallest lag counts: readings jitter
const TOO_SLOW = 0.7, LOSSES_FOR_ADVICE = 3;

const levelDb = (value) => {
  const db = 20 * Math.log10(value);
  return db >= FLOOR_DB ? Math.round(100 * db) / 100 : null;
};

// Counts lost sound. Where the browser counts it, that counts. Else: the context's clock stops
// while its output has nothing to play, so that it falls behind the computer's clock for good.
// (Chromium may also go on with its clock after a gap, which only its own count shows.)
export class LossCounter {
  constructor() {
    this.events = 0;
    this.lostS = 0;
    this.lags = [];
    this.settledMs = null;
    this.before = null; // what the browser counted before the start
    this.counted = { events: 0, lostS: 0 };
  }

  update({ contextTime, performanceTime }, playback = null) {
    if (contextTime > 0) this.addLag(performanceTime - 1000 * contextTime);
    if (!playback) return;
    const { underrunEvents, underrunDuration } = playback;
    this.before ??= { underrunEvents, underrunDuration };
    const events = underrunEvents - this.before.underrunEvents - this.counted.events;
    const lostS = underrunDuration - this.before.underrunDuration - this.counted.lostS;
    this.counted.events += events;
    this.counted.lostS += lostS;
    this.events += events;
    this.lostS += lostS;
  }

  addLag(lagMs) {
    this.lags.push(lagMs);
    if (this.lags.length < LOSS_READINGS) return;
    const smallest = Math.min(...this.lags);
    this.lags = [];
    // The clocks of device and computer drift by far less than LOSS_MS in this time.
    if (this.settledMs !== null && smallest - this.settledMs > LOSS_MS) {
      this.events += 1;
      this.lostS += (smallest - this.settledMs) / 1000;
    }
    this.settledMs = smallest;
  }
}

// Mean time of a step over the last seconds, from running totals.
class MeanStep {
  constructor(seconds) {
    this.seconds = seconds;
    this.totals = [];
  }

  add(second, hops, busyMs) {
    this.totals.push([second, hops, busyMs]);
    while (this.totals.length > 2 && second - this.totals[1][0] >= this.seconds) {
      this.totals.shift();
    }
    const [, firstHops, firstMs] = this.totals[0];
    return hops > firstHops ? (busyMs - firstMs) / (hops - firstHops) : 0;
  }
}

export class LiveStats {
  // Args: {stems, hop, sampleRate} of the model, the context's rate, the engine's latency in
  // samples of it, the input's latency in seconds.
  constructor(model, sampleRate, latency, inputLatencyS) {
    Object.assign(this, { model, sampleRate, latency, inputLatencyS });
    this.recent = new MeanStep(RECENT_S);
    this.long = new MeanStep(LONG_S);
    this.losses = new LossCounter();
    this.firstFrame = null;
  }

  // Return the stats of a report; `context` is the AudioContext, `recording` its RecordingStats.
  update({ figures }, context, recording) {
    this.firstFrame ??= figures[FRAME];
    const seconds = (figures[FRAME] - this.firstFrame) / this.sampleRate;
    this.losses.update(context.getOutputTimestamp(), context.playbackStats);
    const deadline = (1000 * this.model.hop) / this.model.sampleRate;
    const steps = {
      p50_ms: round(this.long.add(seconds, figures[HOPS], figures[BUSY_MS])), // a mean
      p99_ms: null, // the audio thread's clock has whole milliseconds
      max_ms: figures[LONGEST_MS],
      deadline_ms: round(deadline),
      recent_ms: round(this.recent.add(seconds, figures[HOPS], figures[BUSY_MS])),
    };
    return {
      state: "running", seconds, hops: figures[HOPS], deadline_misses: figures[LATE_HOPS],
      skipped: 0, damaged: 0, steps, cpu_share: steps.recent_ms / deadline,
      levels: this.levels(figures),
      run_levels: { levels: {}, clipped: {} }, device: this.device(context),
      recording, advice: this.advice(steps), start_up_s: null,
    };
  }

  levels(figures) {
    const pair = (k) =>
      [levelDb(figures[LEVELS + 2 * k]), levelDb(figures[LEVELS + 2 * k + 1])];
    const { stems } = this.model, separatedAt = LEVELS + 2 * (stems.length + 2), clipped = [];
    const separated = (k) => [levelDb(Math.sqrt(figures[separatedAt + 2 * k])),
      levelDb(figures[separatedAt + 2 * k + 1])];
    if (figures[MIXTURE_CLIPPED]) clipped.push("mixture");
    if (figures[OUTPUT_CLIPPED]) clipped.push("output");
    return {
      stems: Object.fromEntries(stems.map((stem, k) => [stem, pair(k)])),
      mixture: pair(stems.length), output: pair(stems.length + 1),
      separated: Object.fromEntries(stems.map((stem, k) => [stem, separated(k)])), clipped,
    };
  }

  device(context) {
    const parts = {
      device_in_ms: round(1000 * this.inputLatencyS),
      algorithm_ms: round((1000 * this.latency) / this.sampleRate),
      buffer_ms: round(1000 * (context.baseLatency ?? 0)),
      device_out_ms: round(1000 * (context.outputLatency ?? 0)),
    };
    const total = Object.values(parts).reduce((sum, part) => sum + part, 0);
    return {
      overruns: 0, underruns: Math.round(this.losses.lostS * this.sampleRate),
      xruns: this.losses.events, drift_ppm: 0, fill: 0, reopened: 0, state: "running",
      message: "", latency: { ...parts, measured_ms: null, total_ms: round(total) }, advice: "",
    };
  }

  advice({ recent_ms: step, deadline_ms: hop }) {
    if (step > TOO_SLOW * hop) {
      return `this computer is too slow: a step takes ${step.toFixed(1)} of ${hop.toFixed(0)} ms;`
        + " close other programs and tabs";
    }
    if (this.losses.events < LOSSES_FOR_ADVICE) return "";
    return "sound is lost again and again: close other programs and tabs; installed, rtmtass"
      + " needs less: rtmtass live";
  }
}

const round = (value) => Math.round(1000 * value) / 1000;
