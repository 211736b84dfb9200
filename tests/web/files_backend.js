// A backend whose recordings are three tones, for tests of the File tab without a server.

import { openBackend as openFake } from "./fake_backend.js";

const RATE = 16000, SECONDS = 60, COLUMNS = 500, ROWS = 4, BANDS = 64;
const HZ = [0, 110, 170, 290];

function sample(track, n) {
  const tone = (hz) => 0.2 * Math.sin((2 * Math.PI * hz * n) / RATE);
  return track ? tone(HZ[track]) : tone(HZ[1]) + tone(HZ[2]) + tone(HZ[3]);
}

function recordingOf(file, calls) {
  const tracks = ["mixture", "speech", "music", "noise"];
  return { name: file.name, sampleRate: RATE, channels: 1, frames: RATE * SECONDS, tracks,
    canLimit: true,
    async overview() {
      return { columns: COLUMNS, peaks: Int8Array.from({ length: COLUMNS * ROWS },
        (_, at) => (at % ROWS ? 25 : 76)) };
    },
    async picture() {
      return { columns: COLUMNS, rows: ROWS, bands: BANDS,
        data: Uint8Array.from({ length: COLUMNS * ROWS * BANDS }, (_, at) => at % 256) };
    },
    async read(start, frames) {
      const count = Math.min(frames, this.frames - start);
      return tracks.map((_, k) => Float32Array.from({ length: count }, (_, n) => sample(k, start + n)));
    },
    async download(what, controls, { progress, isLimited } = {}) {
      calls.push(["download", what, controls, isLimited]);
      progress?.({ fraction: 0.5 });
      return { clipped: what === "mix" && !isLimited ? 1234 : 0 };
    },
    close() { calls.push(["close"]); } };
}

export async function openBackend() {
  const backend = await openFake();
  backend.about.maxUploadBytes = 1000;
  backend.openFile = async (file, { progress, signal }) => {
    progress({ phase: "separating", fraction: 0.25, leftS: 75, note: "" });
    await new Promise((resolve, reject) => {
      globalThis.finish = resolve;
      globalThis.fail = (text) => reject(new Error(text));
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    return recordingOf(file, backend.calls);
  };
  return backend;
}
