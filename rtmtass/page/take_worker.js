// Writes a live recording: pieces of sound from the audio thread become WAV files of mixture, mix
// and stems. The page's own thread may be busy meanwhile.

import { openStore } from "./track_store.js";
import { wavHeader } from "./wav.js";

let take = null;
let last = null; // of what is done in turn: pieces are written in their order

// The first message brings {port, stems, sampleRate, name}, a last one {end: true} if the audio
// thread can't; pieces, and its own end, come through the port.
onmessage = ({ data }) => {
  if (data.end) inTurn(() => take.finish());
  if (!data.port) return;
  take = new Take(data.stems, data.sampleRate, data.name);
  last = Promise.resolve();
  inTurn(() => take.open());
  data.port.onmessage = ({ data: piece }) =>
    inTurn(() => (piece.end ? take.finish() : take.add(piece)));
};

function inTurn(work) {
  last = last.then(work);
  last.catch((error) => postMessage({ problem: error.message }));
}

class Take {
  constructor(stems, sampleRate, name) {
    this.names = ["mixture", "mix", ...stems];
    this.sampleRate = sampleRate;
    this.name = name;
    this.frames = 0;
  }

  async open() {
    const store = await openStore();
    this.tracks = [];
    for (let i = 0; i < this.names.length; i++) this.tracks.push(await store.track());
  }

  // Append the mix and the stems, track after track; the mixture is the sum of the stems.
  add({ sound, frames }) {
    const length = sound.length / (this.names.length - 1), mixture = new Float32Array(frames);
    this.frames += frames;
    for (let k = 0; k < this.names.length - 1; k++) {
      const row = sound.subarray(k * length, k * length + frames);
      if (k) for (let i = 0; i < frames; i++) mixture[i] += row[i];
      this.tracks[k + 1].append(row);
    }
    this.tracks[0].append(mixture);
    postMessage({ seconds: this.frames / this.sampleRate });
  }

  async finish() {
    if (this.isFinished) return;
    this.isFinished = true;
    const files = [];
    for (const [k, track] of this.tracks.entries()) {
      const header = wavHeader(this.sampleRate, 1, this.frames);
      files.push({
        name: `${this.name}.${this.names[k]}.wav`,
        blob: new Blob([header, await track.finish()], { type: "audio/wav" }),
      });
    }
    postMessage({ files });
  }
}
