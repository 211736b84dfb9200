/** rtmtass in JavaScript: the C library as WebAssembly, with the same calls (see rtmtass.h).
 *
 *     const model = open(await WebAssembly.compile(wasmBytes), modelBytes);
 *     const stream = model.stream({ sampleRate: 48000, channels: 1 });
 *     stream.process([input], [speech, music, noise]);     // Float32Arrays of one length, any
 *
 * For browsers, AudioWorklets, Node and Deno. Nothing is fetched; `process` allocates nothing.
 */
const BLOCK = 1024; // samples a call; longer blocks take several
const OUTPUTS = ["stems", "mix", "both"]; // in the order of rtmtass_output

/** Open a model: a compiled WebAssembly.Module, and the bytes of a .rtm file. */
export function open(module, modelBytes) {
  return new Model(new WebAssembly.Instance(module).exports, new Uint8Array(modelBytes));
}

class Model {
  constructor(library, bytes) {
    this.library = library;
    library._initialize?.();
    const at = library.malloc(bytes.length), result = library.malloc(4);
    if (!at || !result) throw new Error("rtmtass: no memory is left");
    new Uint8Array(library.memory.buffer).set(bytes, at);
    const code = library.rtmtass_open(at, bytes.length, result);
    library.free(at);
    this.check(code);
    this.handle = new Uint32Array(library.memory.buffer)[result / 4];
    library.free(result);
    this.name = this.text(library.rtmtass_model_name(this.handle));
    this.sampleRate = library.rtmtass_model_rate(this.handle);
    this.hop = library.rtmtass_hop(this.handle);
    this.stems = Array.from({ length: library.rtmtass_n_stems(this.handle) }, (_, stem) =>
      this.text(library.rtmtass_stem_name(this.handle, stem)));
  }

  /** Start a stream; `output` is "stems", "mix", or "both": the mix, then the stems.
   *  Free it when it is no longer needed. */
  stream({ sampleRate = this.sampleRate, channels = 1, output = "stems" } = {}) {
    return new Stream(this, sampleRate, channels, OUTPUTS.indexOf(output));
  }

  check(code) {
    if (code) throw new Error(`rtmtass: ${this.text(this.library.rtmtass_error_text(code))}`);
  }

  text(at) {
    const bytes = new Uint8Array(this.library.memory.buffer);
    let text = "";
    while (bytes[at]) text += `%${bytes[at++].toString(16).padStart(2, "0")}`;
    return decodeURIComponent(text); // AudioWorklets have no TextDecoder
  }
}

class Stream {
  constructor(model, sampleRate, channels, output) {
    const library = this.library = model.library, config = library.malloc(20);
    this.model = model;
    new Uint32Array(library.memory.buffer).set([16, sampleRate, channels, output, 0], config / 4);
    const code = library.rtmtass_new_stream(model.handle, config, config + 16);
    this.handle = new Uint32Array(library.memory.buffer)[config / 4 + 4];
    library.free(config);
    model.check(code);
    this.latency = library.rtmtass_latency(this.handle);
    this.channels = channels;
    this.outputs = library.rtmtass_outputs(this.handle);
    const rows = channels + this.outputs; // pointers to every row, the rows, then figures
    this.figures = 2 * (model.stems.length + 2);
    this.pointers = library.malloc(rows * (4 + 4 * BLOCK) + 4 * this.figures);
    if (!this.pointers) throw new Error("rtmtass: no memory is left");
    this.samples = this.pointers + 4 * rows;
    this.figuresAt = this.samples + 4 * BLOCK * rows;
    const first = new Uint32Array(library.memory.buffer, this.pointers, rows);
    for (let row = 0; row < rows; row++) first[row] = this.samples + 4 * BLOCK * row;
    this.views();
  }

  /** Make views of the module's memory, which lose it when it grows. */
  views() {
    this.buffer = this.library.memory.buffer;
    this.rows = Array.from({ length: this.channels + this.outputs }, (_, row) =>
      new Float32Array(this.buffer, this.samples + 4 * BLOCK * row, BLOCK));
    this.figuresView = new Float32Array(this.buffer, this.figuresAt, this.figures);
    this.lastStems = new Float32Array(this.buffer, this.library.rtmtass_last_stems(this.handle),
      this.model.stems.length * this.model.hop * this.channels);
  }

  /** Make them anew if they lost it. */
  refresh() { if (this.buffer !== this.library.memory.buffer) this.views(); }

  /** Process a block: a Float32Array for every channel in, and for every output. */
  process(inputs, outputs) {
    const n = inputs[0].length;
    for (let done = 0; done < n; done += BLOCK) {
      this.refresh();
      const size = Math.min(BLOCK, n - done);
      for (let c = 0; c < this.channels; c++)
        for (let i = 0; i < size; i++) this.rows[c][i] = inputs[c][done + i];
      this.library.rtmtass_process(
        this.handle, this.pointers, this.pointers + 4 * this.channels, size);
      for (let o = 0; o < this.outputs; o++)
        for (let i = 0, row = this.rows[this.channels + o]; i < size; i++)
          outputs[o][done + i] = row[i];
    }
  }

  /** Settings of the mix: by stem's name gains in dB, mute and solo; strength in dB, bypass. */
  setGain(stem, db) {
    this.model.check(this.library.rtmtass_set_gain(this.handle, this.number(stem), db));
  }
  setMute(stem, isMuted) {
    this.model.check(
      this.library.rtmtass_set_mute(this.handle, this.number(stem), isMuted ? 1 : 0));
  }
  setSolo(stem, isSoloed) {
    this.model.check(
      this.library.rtmtass_set_solo(this.handle, this.number(stem), isSoloed ? 1 : 0));
  }
  setStrength(db) { this.model.check(this.library.rtmtass_set_strength(this.handle, db)); }
  setBypass(isBypassed) { this.library.rtmtass_set_bypass(this.handle, isBypassed ? 1 : 0); }
  reset() { this.library.rtmtass_reset(this.handle); }
  number(stem) { return this.model.stems.indexOf(stem) >>> 0; }

  /** For displays; the arrays are changed by the next call, and by `process`.
   *  Amplitudes: RMS and peak of every stem after its gain, of the input, of the output. */
  levels() {
    this.refresh();
    this.model.check(this.library.rtmtass_levels(this.handle, this.figuresAt));
    return this.figuresView;
  }
  /** The factor of every stem that the settings give, without ramps and bypass. */
  factors() {
    this.refresh();
    this.model.check(this.library.rtmtass_factors(this.handle, this.figuresAt));
    return this.figuresView.subarray(0, this.model.stems.length);
  }
  /** Hops that were separated since the start or the last reset. */
  hops() { return this.library.rtmtass_hops(this.handle); }
  /** The last hop's stems at the model's rate, before their gains: stem after stem, `model.hop`
   *  samples of all channels each. */
  hopStems() {
    this.refresh();
    return this.lastStems;
  }

  free() {
    this.library.rtmtass_free_stream(this.handle);
    this.library.free(this.pointers);
    this.handle = this.pointers = 0;
  }
}
