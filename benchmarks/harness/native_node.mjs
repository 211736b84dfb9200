/** The WebAssembly module's part of native.py: processes hops in Node and times each.
 *
 *     node native_node.mjs MODULE.js LIBRARY.wasm MODEL.rtm SOUND.f32 HOP COMPARED
 *
 * Writes a line of JSON with the stems of the first COMPARED hops; then, for every line with a
 * number of hops, a line with the seconds that each took.
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [script, library, modelFile, soundFile, hopWord, comparedWord] = process.argv.slice(2);
const hop = Number(hopWord), compared = Number(comparedWord);
const { open } = await import(pathToFileURL(script));
const model = open(await WebAssembly.compile(readFileSync(library)), readFileSync(modelFile));
const stream = model.stream();
const bytes = readFileSync(soundFile);
const sound = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const stems = model.stems.map(() => new Float32Array(hop));

let at = 0;
function step() {
  const block = sound.subarray(at, at + hop);
  at = at + 2 * hop <= sound.length ? at + hop : 0;
  const start = process.hrtime.bigint();
  stream.process([block], stems);
  return Number(process.hrtime.bigint() - start) / 1e9;
}

const first = new Float32Array(compared * stems.length * hop);
for (let i = 0; i < compared; i++) {
  step();
  stems.forEach((stem, s) => first.set(stem, (i * stems.length + s) * hop));
}
const encoded = Buffer.from(first.buffer).toString("base64");
console.log(JSON.stringify({ node: process.version, first: encoded }));
for await (const line of createInterface({ input: process.stdin }))
  console.log(JSON.stringify(Array.from({ length: Number(line) }, step)));
