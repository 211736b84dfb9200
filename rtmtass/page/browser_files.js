// Recordings that are separated in the visitor's browser: a dropped file goes to a worker, its
// stems stay on the visitor's disk, and nothing is sent anywhere.

import { wavHeader } from "./wav.js";

const MOST_DECODED_BYTES = 500e6;
const MOST_DECODED_S = 1800;
const DECODED_RATE = 48000;

// Separate a file; `engine` holds {module, model}. Rejects with the line to show.
export async function openFile(file, { progress = () => {}, signal = null } = {}, engine) {
  signal?.throwIfAborted();
  progress({ phase: "opening", fraction: 0, leftS: null });
  const worker = new Worker(new URL("file_worker.js", import.meta.url), { type: "module" });
  try {
    const done = await separated(worker, file, { progress, signal }, engine);
    return new BrowserRecording(file.name, worker, done);
  } catch (error) {
    worker.terminate();
    throw error;
  }
}

function separated(worker, file, { progress, signal }, engine) {
  return new Promise((resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    worker.onerror = () => reject(new Error("this browser can't run the separation in a worker"));
    worker.onmessage = ({ data }) => {
      if (data.progress) progress(data.progress);
      else if (data.done) resolve(data.done);
      else if (data.problem) reject(new Error(data.problem));
      else if (data.needsDecoding) decodeFor(worker, file, progress).catch(reject);
    };
    worker.postMessage({ file, ...engine });
  });
}

async function decodeFor(worker, file, progress) {
  progress({ phase: "decoding", fraction: 0, leftS: null });
  const decoded = await decode(file);
  worker.postMessage({ decoded }, decoded.rows.map((row) => row.buffer));
}

// Decode a file that is no WAV, which a browser does only as a whole.
async function decode(file) {
  const bound = `without a server, ${MOST_DECODED_S / 60} minutes and ${MOST_DECODED_BYTES / 1e6}`
    + " MB at most can be decoded; convert it to WAV, which has no limit";
  if (file.size > MOST_DECODED_BYTES) {
    throw new Error(`${file.name} has ${Math.round(file.size / 1e6)} MB: ${bound}`);
  }
  const seconds = await durationOf(file);
  if (seconds > MOST_DECODED_S) {
    throw new Error(`${file.name} lasts ${Math.round(seconds / 60)} minutes: ${bound}`);
  }
  const context = new OfflineAudioContext(1, 1, DECODED_RATE);
  const sound = await context.decodeAudioData(await file.arrayBuffer()).catch(() => {
    throw new Error(`${file.name} can't be read: this browser knows no sound in it;`
      + " convert it to WAV");
  });
  const rows = Array.from({ length: sound.numberOfChannels }, (_, c) =>
    sound.getChannelData(c).slice());
  return { rows, sampleRate: sound.sampleRate };
}

// Return the length in seconds that a media element sees; 0 if it sees none.
function durationOf(file) {
  const element = document.createElement("audio"), url = URL.createObjectURL(file);
  return new Promise((resolve) => {
    const end = (seconds) => {
      URL.revokeObjectURL(url);
      resolve(Number.isFinite(seconds) ? seconds : 0);
    };
    element.onloadedmetadata = () => end(element.duration);
    element.onerror = () => end(0);
    element.preload = "metadata";
    element.src = url;
  });
}

class BrowserRecording {
  constructor(name, worker, { sampleRate, channels, frames, stems, names, overview, picture }) {
    Object.assign(this, { name, sampleRate, channels, frames });
    this.tracks = ["mixture", ...names];
    this.worker = worker;
    this.stems = stems; // Blobs of interleaved float32 samples
    this.shown = { overview, picture };
    this.canLimit = false; // the peaks of a mix
    this.count = 0; // of mixes that were asked for
  }

  async overview() { return this.shown.overview; }

  async picture() { return this.shown.picture; }

  // Return the interleaved samples of every track; the mixture is the sum of the stems.
  async read(start, frames) {
    const frameBytes = 4 * this.channels, first = Math.max(0, start);
    const end = Math.min(first + frames, this.frames);
    const stems = await Promise.all(this.stems.map(async (blob) => new Float32Array(
      await blob.slice(first * frameBytes, end * frameBytes).arrayBuffer())));
    const mixture = new Float32Array(Math.max(0, end - first) * this.channels);
    for (const stem of stems) for (let i = 0; i < mixture.length; i++) mixture[i] += stem[i];
    return [mixture, ...stems];
  }

  // Start the download of a stem, or of the mix by `controls`, as WAV of float32 samples, in which
  // nothing is clipped; so there is nothing to limit either.
  async download(what, controls, { progress = () => {}, signal = null, isLimited = false } = {}) {
    if (isLimited) {
      throw new Error("peaks are limited by rtmtass web only; this WAV holds those beyond full"
        + " scale unclipped");
    }
    const samples = what === "mix" ? await this.mixed(controls, progress, signal)
      : this.stems[this.tracks.indexOf(what) - 1];
    const header = wavHeader(this.sampleRate, this.channels, this.frames);
    const stem = this.name.replace(/\.[^.]*$/, "");
    save(`${stem}.${what}.wav`, new Blob([header, samples], { type: "audio/wav" }));
    return { clipped: 0 };
  }

  // Return a Blob of the mix, which the worker makes.
  mixed(controls, progress, signal) {
    signal?.throwIfAborted();
    const id = ++this.count, { worker } = this;
    return new Promise((resolve, reject) => {
      const abort = () => {
        worker.postMessage({ cancel: id });
        end(() => reject(signal.reason));
      };
      const listen = ({ data }) => {
        if (data.id !== id) return;
        if (data.blob) end(() => resolve(data.blob));
        else if (data.problem) end(() => reject(new Error(data.problem)));
        else progress({ fraction: data.fraction });
      };
      const end = (settle) => {
        worker.removeEventListener("message", listen);
        signal?.removeEventListener("abort", abort);
        settle();
      };
      worker.addEventListener("message", listen);
      signal?.addEventListener("abort", abort);
      worker.postMessage({ id, mix: controls });
    });
  }

  close() {
    this.worker.terminate(); // its files are removed when the next worker starts
    this.stems = [];
  }
}

// Start the download of a Blob.
export function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the browser has opened it by then
}
