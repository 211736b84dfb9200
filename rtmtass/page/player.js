// Plays a recording: reads a little ahead of the play head, whatever its length, and has the
// tracks mixed by player_worklet.js. The AudioContext runs at the recording's rate; the browser
// resamples for the device.

const WORKLET = "player_worklet.js";
const AHEAD_S = 4; // at most, in the ring
const CHUNK_S = 1;
const FIRST_CHUNK_S = 0.5; // after a seek, so that it sounds soon
const LARGEST_RING = 4_000_000; // samples of all tracks
const SEEK_MARGIN = 1; // the last frame can't be played from

export class Player {
  #recording;
  #listener;
  #context = null;
  #ownsContext;
  #node = null;
  #opening = null;
  #mix;
  #generation = 0;
  #position = 0;
  #filled = 0; // frames up to here were sent
  #reading = null; // the promise of the piece that is being read
  #answer = () => {};
  #isClosed = false;
  #capacity;
  isPlaying = false;
  isWaiting = false; // for samples that are late

  // Args: the recording; `listener` {changed(), levels(rms, peak), failed(error)}; a context to
  // render into, for tests.
  constructor(recording, listener, context = null) {
    const { tracks, channels, sampleRate } = recording;
    this.#recording = recording;
    this.#listener = listener;
    this.#context = context;
    this.#ownsContext = context === null;
    const largest = Math.floor(LARGEST_RING / (tracks.length * channels));
    this.#capacity = Math.min(Math.round(AHEAD_S * sampleRate), largest);
    this.#mix = { gains: tracks.slice(1).map(() => 1), wet: 1 };
  }

  // The frame that is heard now.
  get position() {
    const lateS = this.isPlaying && this.#ownsContext ? this.#context?.outputLatency ?? 0 : 0;
    return Math.max(0, this.#position - Math.round(lateS * this.#recording.sampleRate));
  }

  // Sets the linear gains of the stems in order, and whether the original is heard instead.
  setMix(gains, isOriginal) {
    this.#mix = { gains, wet: isOriginal ? 0 : 1 };
    this.#send({ do: "mix", ...this.#mix });
  }

  async play() {
    if (this.#isClosed) return;
    this.isPlaying = true;
    if (this.#position >= this.#recording.frames - SEEK_MARGIN) this.seek(0);
    this.#listener.changed();
    try {
      const opened = this.open();
      this.#feed();
      await opened;
      if (!this.isPlaying) return;
      if (this.#ownsContext) await this.#context.resume();
      this.#send({ do: "play" });
    } catch (error) {
      this.#fail(error);
    }
  }

  pause() {
    this.isPlaying = false;
    this.#send({ do: "pause" });
    this.#listener.changed();
  }

  // Goes on at another frame.
  seek(frame) {
    const last = Math.max(0, this.#recording.frames - SEEK_MARGIN);
    this.#position = this.#filled = Math.min(last, Math.max(0, Math.round(frame)));
    this.#generation += 1;
    this.#send({ do: "seek", generation: this.#generation, frame: this.#position });
    this.#feed();
    this.#listener.changed();
  }

  // Makes the audio graph, once; a browser allows it after a click only.
  open() {
    this.#opening ??= this.#open();
    return this.#opening;
  }

  close() {
    this.#isClosed = true;
    this.isPlaying = false;
    this.#node?.disconnect();
    if (this.#ownsContext) this.#context?.close();
  }

  // Resolves when all that fits has been read and has reached the worklet.
  async settled() {
    await this.open();
    while (this.#reading) await this.#reading;
    await this.reached();
  }

  // Resolves when all that was sent has reached the worklet.
  reached() {
    return new Promise((resolve) => {
      this.#answer = resolve;
      this.#send({ do: "answer" });
    });
  }

  async #open() {
    const { tracks, channels, frames, sampleRate } = this.#recording;
    this.#context ??= new AudioContext({ sampleRate, latencyHint: "playback" });
    await this.#context.audioWorklet.addModule(new URL(WORKLET, import.meta.url));
    this.#node = new AudioWorkletNode(this.#context, "rtmtass-player", {
      numberOfInputs: 0, numberOfOutputs: 1, outputChannelCount: [channels],
      processorOptions: { nTracks: tracks.length, channels, capacity: this.#capacity,
        total: frames, ...this.#mix },
    });
    this.#node.port.onmessage = ({ data }) => this.#receive(data);
    this.#node.onprocessorerror = () => this.#fail(new Error("the player stopped; reload the page"));
    this.#node.connect(this.#context.destination);
    this.#send({ do: "seek", generation: this.#generation, frame: this.#position });
  }

  #send(message, transferred = []) {
    this.#node?.port.postMessage(message, transferred);
  }

  #receive({ isAnswer, generation, position, hasEnded, isSounding, isWaiting, rms, peak }) {
    if (isAnswer) this.#answer();
    if (generation !== this.#generation) return; // of before a seek
    const last = this.#recording.frames - SEEK_MARGIN;
    this.#position = position < last ? position : this.#recording.frames;
    this.isWaiting = isWaiting;
    this.#listener.levels(rms, peak);
    if (hasEnded) this.isPlaying = false;
    if (hasEnded || !this.isPlaying && !isSounding) this.#rest();
    this.#listener.changed();
    this.#feed();
  }

  // Stops the clock of a context that is silent, which saves a battery.
  #rest() {
    if (this.#ownsContext && this.#context.state === "running") this.#context.suspend();
  }

  // Reads the next piece if there is room for it, then those after it; one at a time.
  #feed() {
    const { frames, sampleRate } = this.#recording;
    if (this.#reading || !this.#opening || this.#isClosed || this.#filled >= frames) return;
    const isFirst = this.#filled === this.#position;
    const wanted = Math.round((isFirst ? FIRST_CHUNK_S : CHUNK_S) * sampleRate);
    const room = this.#capacity - (this.#filled - this.#position);
    const count = Math.min(wanted, this.#capacity >> 1, frames - this.#filled);
    if (room < count) return;
    this.#reading = this.#read(count).then(() => {
      this.#reading = null;
      this.#feed();
    }, (error) => {
      this.#reading = null;
      this.#fail(error);
    });
  }

  async #read(count) {
    const generation = this.#generation;
    const tracks = await this.#recording.read(this.#filled, count);
    await this.#opening;
    if (generation === this.#generation) this.#accept(tracks, generation);
  }

  #accept(tracks, generation) {
    const read = tracks[0].length / this.#recording.channels;
    if (read === 0) throw new Error(`${this.#recording.name} ends early; open it again`);
    this.#filled += read;
    const buffers = [...new Set(tracks.map((track) => track.buffer))];
    this.#send({ do: "chunk", generation, tracks }, buffers);
  }

  #fail(error) {
    if (this.#isClosed) return;
    this.pause();
    this.#listener.failed(error);
  }
}
