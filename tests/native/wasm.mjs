// What the scripts of tests/test_native_wasm.py begin with: a model, and files of samples.
import { readFileSync, writeFileSync } from "node:fs";
import { open } from "./rtmtass.mjs";

export { open };
export const read = (name) => readFileSync(new URL(name, import.meta.url));
export const module = await WebAssembly.compile(read("rtmtass.wasm"));

/** Return the channels of a file of float32 samples, one after the other. */
export function readSamples(name, channels) {
  const samples = new Float32Array(new Uint8Array(read(name)).buffer);
  const n = samples.length / channels;
  return Array.from({ length: channels }, (_, c) => samples.slice(c * n, (c + 1) * n));
}

export function writeSamples(name, rows) {
  const whole = new Float32Array(rows.reduce((n, row) => n + row.length, 0));
  let at = 0;
  for (const row of rows) whole.set(row, at), at += row.length;
  writeFileSync(new URL(name, import.meta.url), new Uint8Array(whole.buffer));
}

/** Process rows in blocks of these lengths in turn. */
export function process(stream, rows, lengths) {
  const outs = Array.from({ length: stream.outputs }, () => new Float32Array(rows[0].length));
  for (let done = 0, block = 0; done < rows[0].length; block++) {
    const end = Math.min(done + lengths[block % lengths.length], rows[0].length);
    stream.process(rows.map((row) => row.subarray(done, end)),
      outs.map((row) => row.subarray(done, end)));
    done = end;
  }
  return outs;
}

/** Return the message of the error that a function throws. */
export function thrown(run) {
  try {
    run();
  } catch (error) {
    return error.message;
  }
  return "nothing";
}
