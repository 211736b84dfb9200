// Mixes the tracks of a recording sample by sample, without a click wherever a person touches it.
//
// The page sends pieces of all tracks; a voice keeps them in a ring and plays them. A seek starts
// another voice, so that the old place fades out while the new one fades in. A voice that runs out
// of samples fades out before they end, and goes on from the same sample when more have arrived.
// Gains move along a raised cosine.

const FADE_S = 0.01;
const RAMP_S = 0.04; // as the live mixer's
const START_S = 0.1; // what a voice needs before it starts
const REPORT_BLOCKS = 8;
const VOICES = 3; // one plays, one fades out, one for a seek within that fade

const raised = (progress) => 0.5 - 0.5 * Math.cos(Math.PI * progress);

class Ramp {
  constructor(value, length) {
    this.now = this.from = this.to = value;
    this.since = this.length = length;
  }

  aim(value) {
    if (value === this.to) return;
    this.from = this.now;
    this.to = value;
    this.since = 0;
  }

  advance() {
    if (this.since >= this.length) return this.to;
    this.since += 1;
    this.now = this.since >= this.length ? this.to
      : this.from + (this.to - this.from) * raised(this.since / this.length);
    return this.now;
  }
}

// A stretch of the recording: frames from `position` to `end` are in the ring.
class Voice {
  constructor(nTracks, channels, capacity, total, rate) {
    this.rings = Array.from({ length: nTracks }, () => new Float32Array(capacity * channels));
    this.channels = channels;
    this.capacity = capacity;
    this.total = total;
    this.fade = Math.max(1, Math.round(FADE_S * rate));
    this.start = Math.round(START_S * rate);
    this.steps = 0; // of the fade
    this.begin(-1, 0);
  }

  begin(generation, position) {
    this.generation = generation;
    this.position = this.end = position;
    this.isHeld = true; // must not sound
  }

  get left() { return this.end - this.position; }
  get isComplete() { return this.end >= this.total; }
  get hasEnded() { return this.isComplete && this.steps === 0 && this.left <= 1; }

  add(tracks) {
    const frames = tracks[0].length / this.channels;
    if (this.left + frames > this.capacity) return; // the page sends no more than fits
    const at = (this.end % this.capacity) * this.channels;
    const room = this.capacity * this.channels - at;
    for (let k = 0; k < this.rings.length; k += 1) {
      this.rings[k].set(tracks[k].subarray(0, room), at);
      if (tracks[k].length > room) this.rings[k].set(tracks[k].subarray(room), 0);
    }
    this.end += frames;
  }

  // Moves the fade by a sample, and returns its gain; 0 if there is nothing to play.
  advance() {
    const left = this.left;
    const isReady = this.steps > 0 || left >= this.start || (this.isComplete && left > 1);
    if (!this.isHeld && isReady && left > this.steps) {
      if (this.steps < this.fade) this.steps += 1;
    } else if (this.steps > 0) this.steps -= 1;
    return this.steps === this.fade ? 1 : raised(this.steps / this.fade);
  }
}

class PlayerProcessor extends AudioWorkletProcessor {
  constructor({ processorOptions: options }) {
    super();
    const { nTracks, channels, capacity, total, gains, wet } = options;
    const rampLength = Math.max(1, Math.round(RAMP_S * sampleRate));
    this.channels = channels;
    this.gains = gains.map((gain) => new Ramp(gain, rampLength));
    this.wet = new Ramp(wet, rampLength); // 1: the mix, 0: the original
    this.voices = Array.from({ length: VOICES }, () =>
      new Voice(nTracks, channels, capacity, total, sampleRate));
    [this.current] = this.voices;
    this.isPlaying = false;
    this.mixed = new Float32Array(channels);
    this.blocks = 0;
    this.clearLevels();
    this.port.onmessage = ({ data }) => this[data.do](data);
  }

  play() { this.isPlaying = true; }

  pause() { this.isPlaying = false; }

  seek({ generation, frame }) {
    if (this.current.steps > 0) {
      this.current.isHeld = true;
      const free = this.voices.filter((voice) => voice !== this.current);
      this.current = free.reduce((a, b) => (a.steps <= b.steps ? a : b));
      this.current.steps = 0;
    }
    this.current.begin(generation, frame);
  }

  chunk({ generation, tracks }) {
    if (generation === this.current.generation) this.current.add(tracks);
  }

  answer() { this.port.postMessage({ isAnswer: true }); }

  mix({ gains, wet }) {
    gains.forEach((gain, k) => this.gains[k].aim(gain));
    this.wet.aim(wet);
  }

  process(_, [output]) {
    const frames = output[0].length;
    this.current.isHeld = !this.isPlaying;
    for (let n = 0; n < frames; n += 1) {
      this.mixSample();
      for (let c = 0; c < output.length; c += 1) {
        const y = this.mixed[c];
        output[c][n] = y;
        this.power += y * y;
        this.peak = Math.max(this.peak, Math.abs(y));
      }
    }
    this.samples += frames * output.length;
    this.blocks += 1;
    if (this.current.hasEnded && this.isPlaying) {
      this.isPlaying = false;
      this.report(true);
    } else if (this.blocks % REPORT_BLOCKS === 0) this.report(false);
    return true;
  }

  mixSample() {
    const { gains, mixed, channels } = this;
    const wet = this.wet.advance();
    for (const gain of gains) gain.advance();
    mixed.fill(0);
    for (const voice of this.voices) {
      const fade = voice === this.current || voice.steps > 0 ? voice.advance() : 0;
      if (voice.steps === 0) continue;
      const at = (voice.position % voice.capacity) * channels;
      for (let c = 0; c < channels; c += 1) {
        let sum = 0;
        for (let k = 0; k < gains.length; k += 1) sum += gains[k].now * voice.rings[k + 1][at + c];
        mixed[c] += fade * (wet * sum + (1 - wet) * voice.rings[0][at + c]);
      }
      voice.position += 1;
    }
  }

  report(hasEnded) {
    const { generation, position, steps } = this.current;
    this.port.postMessage({ generation, position, hasEnded,
      isSounding: this.voices.some((voice) => voice.steps > 0),
      isWaiting: this.isPlaying && steps === 0,
      rms: Math.sqrt(this.power / Math.max(1, this.samples)), peak: this.peak });
    this.clearLevels();
  }

  clearLevels() {
    this.power = this.peak = this.samples = 0;
  }
}

registerProcessor("rtmtass-player", PlayerProcessor);
