/** rtmtass in JavaScript: the C library as WebAssembly, with the same calls (see rtmtass.h).
 *
 *     const model = open(await WebAssembly.compile(wasmBytes), modelBytes);
 *     const stream = model.stream({ sampleRate: 48000, channels: 1 });
 *     stream.process([input], [speech, music, noise]);     // Float32Arrays of one length, any
 *
 * For browsers, AudioWorklets, Node and Deno. Nothing is fetched; `process` allocates nothing.
 */
const BLOCK = 1024; // samples a call; longer blocks take several

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
    this.stems = Array.from({ length: library.rtmtass_n_stems(this.handle) }, (_, stem) =>
      this.text(library.rtmtass_stem_name(this.handle, stem)));
  }

  /** Start a stream; `output` is "stems" or "mix". Free it when it is no longer needed. */
  stream({ sampleRate = this.sampleRate, channels = 1, output = "stems" } = {}) {
    return new Stream(this, sampleRate, channels, ["stems", "mix"].indexOf(output));
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
    const rows = channels + this.outputs; // pointers to every row, then the rows
    this.pointers = library.malloc(rows * (4 + 4 * BLOCK));
    if (!this.pointers) throw new Error("rtmtass: no memory is left");
    this.samples = this.pointers + 4 * rows;
    const first = new Uint32Array(library.memory.buffer, this.pointers, rows);
    for (let row = 0; row < rows; row++) first[row] = this.samples + 4 * BLOCK * row;
    this.views();
  }

  /** Make views of the module's memory, which lose it when it grows. */
  views() {
    this.buffer = this.library.memory.buffer;
    this.rows = Array.from({ length: this.channels + this.outputs }, (_, row) =>
      new Float32Array(this.buffer, this.samples + 4 * BLOCK * row, BLOCK));
  }

  /** Process a block: a Float32Array for every channel in, and for every output. */
  process(inputs, outputs) {
    const n = inputs[0].length;
    for (let done = 0; done < n; done += BLOCK) {
      if (this.buffer !== this.library.memory.buffer) this.views();
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

  /** Settings of the mix: gains by stem's name in dB, strength in dB, and the bypass. */
  setGain(stem, db) {
    this.model.check(
      this.library.rtmtass_set_gain(this.handle, this.model.stems.indexOf(stem) >>> 0, db));
  }
  setStrength(db) { this.model.check(this.library.rtmtass_set_strength(this.handle, db)); }
  setBypass(isBypassed) { this.library.rtmtass_set_bypass(this.handle, isBypassed ? 1 : 0); }
  reset() { this.library.rtmtass_reset(this.handle); }

  free() {
    this.library.rtmtass_free_stream(this.handle);
    this.library.free(this.pointers);
    this.handle = this.pointers = 0;
  }
}
