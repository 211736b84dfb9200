// Runs the engine for a while before it is needed. A browser compiles a function again, for speed,
// once it has run often, which takes a tenth of a second for the largest; what is compiled is
// shared by all who run the module, the audio thread too.

import { open } from "./rtmtass.js";

const HOPS = 300;

onmessage = ({ data: { module, model } }) => {
  const opened = open(module, model), stream = opened.stream({ output: "both" });
  const silence = [new Float32Array(opened.hop)];
  const outs = Array.from({ length: stream.outputs }, () => new Float32Array(opened.hop));
  for (let hop = 0; hop < HOPS; hop++) stream.process(silence, outs);
  postMessage({ done: true });
};
