// Passes on what two nodes of a graph give in the same quanta: the engine's input and its output.

const QUANTA = 32; // in a message

registerProcessor("tap", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = [new Float32Array(128 * QUANTA), new Float32Array(128 * QUANTA)];
    this.count = 0;
  }

  process(inputs) {
    this.samples.forEach((samples, k) => {
      if (inputs[k][0]) samples.set(inputs[k][0], 128 * this.count);
      else samples.fill(0, 128 * this.count, 128 * (this.count + 1));
    });
    this.count = (this.count + 1) % QUANTA;
    if (!this.count) this.port.postMessage(this.samples);
    return true;
  }
});
