// Separates one recording in a worker, block by block: from slices of a WAV, or from what the
// browser decoded, into a file for each stem. Afterwards it makes the mixes that are downloaded.

import { BANDS, Columns, pictureOf } from "./bands.js";
import { open } from "./rtmtass.js";
import { openStore } from "./track_store.js";
import { openWav } from "./wav.js";

const COLUMNS = 2000; // of overview and picture at most
const FULL = 127; // a peak at full scale
const BLOCK = 65536; // frames that are read and written at once
const REPORT_MS = 100;

let job = null;
const cancelled = new Set(); // ids of mixes

onmessage = async ({ data }) => {
  try {
    if (data.cancel) cancelled.add(data.cancel);
    else if (data.file) await start(data);
    else if (data.decoded) await separate(memorySource(data.decoded));
    else if (data.mix) await mix(data);
  } catch (error) {
    postMessage({ id: data.id, problem: error.message });
  }
};

async function start({ file, module, model }) {
  job = { model: open(module, model), store: await openStore() };
  const wav = await openWav(file);
  if (wav) await separate(wav);
  else postMessage({ needsDecoding: true });
}

// What the browser decoded, as a source like that of a WAV.
function memorySource({ rows, sampleRate }) {
  const read = async (first, n) => rows.map((row) => row.subarray(first, first + n));
  return { sampleRate, channels: rows.length, frames: rows[0].length, read };
}

// Separate a source; posts progress, then what the page needs to show the recording.
async function separate(source) {
  const { model, store } = job, { sampleRate, channels, frames } = source;
  const stream = model.stream({ sampleRate, channels });
  const tracks = [];
  for (let stem = 0; stem < model.stems.length; stem++) tracks.push(await store.track());
  const outline = new Outline(model, frames, sampleRate, channels);
  const total = frames + stream.latency; // silence after the end brings out what is inside
  let skipped = 0, reported = performance.now();
  const began = reported;
  for (let done = 0; done < total; done += BLOCK) {
    const n = Math.min(BLOCK, total - done);
    const outs = processBlock(stream, padded(await source.read(done, n), n), outline);
    const from = Math.min(n, stream.latency - skipped);
    skipped += from;
    outs.forEach((rows, stem) => tracks[stem].append(interleaved(rows, from, n)));
    outline.addStems(outs, from, n);
    if (performance.now() - reported < REPORT_MS) continue;
    reported = performance.now();
    const fraction = (done + n) / total;
    postMessage({ progress: {
      phase: "separating", fraction, leftS: ((reported - began) / 1000) * (1 / fraction - 1),
    } });
  }
  stream.free();
  const stems = [];
  for (const track of tracks) stems.push(await track.finish());
  Object.assign(job, { sampleRate, channels, frames, stems });
  postMessage({ done: {
    sampleRate, channels, frames, stems, names: model.stems,
    overview: outline.overview(), picture: outline.picture(),
  } });
}

const padded = (rows, n) => rows.map((row) => {
  if (row.length === n) return row;
  const longer = new Float32Array(n);
  longer.set(row);
  return longer;
});

// Process rows in pieces that complete a hop at most, for the pictures; returns the channels of
// each stem.
function processBlock(stream, rows, outline) {
  const n = rows[0].length, { stems } = stream.model;
  const outs = Array.from({ length: stream.outputs }, () => new Float32Array(n));
  for (let at = 0; at < n; at += outline.piece) {
    const end = Math.min(at + outline.piece, n), before = stream.hops();
    stream.process(rows.map((row) => row.subarray(at, end)),
      outs.map((row) => row.subarray(at, end)));
    if (stream.hops() !== before) outline.addHop(stream.hopStems());
  }
  return stems.map((_, stem) =>
    outs.slice(stem * stream.channels, (stem + 1) * stream.channels));
}

function interleaved(rows, from, to) {
  if (rows.length === 1) return rows[0].subarray(from, to);
  const samples = new Float32Array((to - from) * rows.length);
  for (let i = from, at = 0; i < to; i++) for (const row of rows) samples[at++] = row[i];
  return samples;
}

// The peaks and the picture over the whole recording, while it is separated.
class Outline {
  constructor(model, frames, sampleRate, channels) {
    this.frames = frames;
    this.channels = channels;
    this.rows = model.stems.length + 1;
    const hop = (model.hop * sampleRate) / model.sampleRate;
    this.piece = Math.max(1, Math.floor(hop));
    this.columns = new Columns(model.stems.length, model.hop, model.sampleRate, channels);
    this.peakColumns = Math.min(COLUMNS, frames);
    this.peaks = new Float32Array(this.peakColumns * this.rows);
    this.at = 0;
    this.hops = Math.ceil(frames / hop);
    this.hop = -2; // the first hop of stems lies before the start, its frame reaches further back
    const count = Math.min(COLUMNS, this.hops);
    this.sums = Array.from({ length: count }, () =>
      Array.from({ length: this.rows }, () => new Float64Array(BANDS)));
    this.counts = new Float64Array(count);
  }

  addHop(stems) {
    const powers = this.columns.add(stems);
    this.hop += 1;
    if (this.hop < 0 || this.hop >= this.hops) return;
    const column = Math.floor((this.hop * this.sums.length) / this.hops);
    this.counts[column] += 1;
    for (let row = 0; row < this.rows; row++) {
      const sums = this.sums[column][row], more = powers[row];
      for (let band = 0; band < BANDS; band++) sums[band] += more[band];
    }
  }

  addStems(stems, from, to) {
    const { peaks, rows, channels, frames, peakColumns } = this;
    for (let i = from; i < to; i++) {
      const first = Math.floor((this.at++ * peakColumns) / frames) * rows;
      for (let c = 0; c < channels; c++) {
        let mixture = 0;
        for (let stem = 0; stem < stems.length; stem++) {
          const x = stems[stem][c][i], at = first + stem + 1;
          mixture += x;
          if (Math.abs(x) > peaks[at]) peaks[at] = Math.abs(x);
        }
        if (Math.abs(mixture) > peaks[first]) peaks[first] = Math.abs(mixture);
      }
    }
  }

  overview() {
    const peaks = Int8Array.from(this.peaks, (peak) => Math.min(FULL, Math.round(FULL * peak)));
    return { columns: this.peakColumns, peaks };
  }

  picture() {
    const columns = this.sums.map((rows, column) =>
      rows.map((sums) => sums.map((sum) => sum / Math.max(1, this.counts[column]))));
    return pictureOf(columns, this.rows);
  }
}

// Mix the stems by the factors that the library gives for the controls, into a new file.
async function mix({ id, mix: controls }) {
  const { model, store, stems, channels, frames } = job;
  const factors = factorsOf(model, controls);
  const track = await store.track();
  const frameBytes = 4 * channels;
  for (let first = 0; first < frames; first += BLOCK) {
    const end = Math.min(first + BLOCK, frames);
    const mixed = new Float32Array((end - first) * channels);
    for (let stem = 0; stem < stems.length; stem++) {
      const part = stems[stem].slice(first * frameBytes, end * frameBytes);
      const samples = new Float32Array(await part.arrayBuffer());
      for (let i = 0; i < mixed.length; i++) mixed[i] += factors[stem] * samples[i];
    }
    track.append(mixed);
    if (cancelled.has(id)) break;
    postMessage({ id, fraction: end / frames });
  }
  const blob = await track.finish();
  if (!cancelled.delete(id)) postMessage({ id, blob });
}

function factorsOf(model, { gains_db, muted, soloed, strength_db }) {
  const stream = model.stream({ output: "mix" });
  for (const stem of model.stems) {
    stream.setGain(stem, gains_db[stem] ?? -Infinity);
    stream.setMute(stem, muted.includes(stem));
    stream.setSolo(stem, soloed.includes(stem));
  }
  stream.setStrength(strength_db ?? Infinity);
  const factors = stream.factors().slice();
  stream.free();
  return factors;
}
