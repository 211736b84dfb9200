// Runs before the page's own scripts: puts a tap beside the engine, from its first sample on.
//
// The engine's node is connected to the output before the context runs; the microphone, which
// comes later, is led through a gain of 1 that the tap listens to as well.
(() => {
  const { connect } = AudioNode.prototype;
  const gates = new Map();
  window.tap = { input: [], output: [], frames: 0, sampleRate: 0 };

  window.AudioContext = class extends AudioContext {
    constructor(options) {
      super(options);
      const { audioWorklet } = this, add = audioWorklet.addModule.bind(audioWorklet);
      const tapped = add("/tap.js");
      // The page's own modules come after it: the tap is there once the engine's node is made.
      audioWorklet.addModule = async (url) => { await tapped; await add(url); };
      window.tap.context = this;
    }
  };

  const listen = (node) => {
    const { context } = node, gate = new GainNode(context);
    const node2 = new AudioWorkletNode(context, "tap", { numberOfInputs: 2 });
    window.tap.sampleRate = context.sampleRate;
    node2.port.onmessage = ({ data: [input, output] }) => {
      window.tap.input.push(input);
      window.tap.output.push(output);
      window.tap.frames += input.length;
    };
    connect.call(gate, node2, 0, 0);
    connect.call(node, node2, 0, 1);
    connect.call(gate, node);
    connect.call(node2, context.destination);
    gates.set(node, gate);
  };

  AudioNode.prototype.connect = function (target, ...rest) {
    if (this instanceof AudioWorkletNode && target instanceof AudioDestinationNode) listen(this);
    return connect.call(this, gates.get(target) ?? target, ...rest);
  };

  // The samples so far as base64: the input's, then the output's.
  window.readTap = () => ["input", "output"].map((name) => {
    const samples = new Float32Array(window.tap[name].reduce((n, x) => n + x.length, 0));
    let at = 0;
    for (const part of window.tap[name]) samples.set(part, at), at += part.length;
    const bytes = new Uint8Array(samples.buffer);
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) {
      text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    }
    return btoa(text);
  });
})();
