// A backend without an engine, for tests and screenshots: it keeps every call, and states and
// pictures come from the test, or from `play()` as sound that could be real.

const STEMS = ["speech", "music", "noise"];
const BANDS = 64, ROWS = 4;

export function initialState(changes = {}) {
  return { running: false, stats: null, title: "", input: null, output: null, messages: [],
    problem: "", ...changes, controls: { selected: "speech",
      gains_db: { speech: 0, music: 0, noise: 0 }, muted: [], soloed: [], strength_db: null,
      is_bypassed: false, can_record: true, ...changes.controls } };
}

export function stats(changes = {}) {
  return { state: "running", seconds: 754.2, hops: 47137, deadline_misses: 0, skipped: 0,
    damaged: 0, cpu_share: 0.23, advice: "", start_up_s: 1.4,
    steps: { p50_ms: 3.02, p99_ms: 3.61, max_ms: 5.13, recent_ms: 3.04, deadline_ms: 16 },
    device: { overruns: 0, underruns: 0, xruns: 0, drift_ppm: 12.5, fill: 480, reopened: 0,
      state: "running", message: "", advice: "", latency: { device_in_ms: 5.3, algorithm_ms: 32,
        buffer_ms: 5.3, device_out_ms: 5.4, measured_ms: null, total_ms: 48 } },
    recording: { is_running: false, folder: "", seconds: 0, left_s: 0, message: "" },
    levels: { stems: { speech: [-24, -12], music: [-33, -22], noise: [-48, -39] },
      mixture: [-23, -11], output: [-24, -12], clipped: [],
      separated: { speech: [-24, -12], music: [-27, -16], noise: [-42, -33] } },
    ...changes };
}

// A picture of columns x rows x bands, whose level in dBFS is level(column, row, band).
export function picture(columns, level) {
  const data = new Uint8Array(columns * ROWS * BANDS);
  for (let at = 0; at < data.length; at += 1) {
    const band = at % BANDS, row = Math.floor(at / BANDS) % ROWS;
    const db = level(Math.floor(at / BANDS / ROWS), row, band);
    data[at] = Math.min(255, Math.max(0, Math.round((255 * (db + 100)) / 100)));
  }
  return { columns, rows: ROWS, bands: BANDS, data };
}

class FakeBackend {
  kind = "server";
  missing = [];
  about = { version: "0.1.0", model: "rtmtass-small", stems: STEMS, sampleRate: 16000,
    canChoose: true, maxUploadBytes: null };
  sent = [];
  calls = [];
  listener = null;
  latest = initialState();
  startProblem = "";
  found = { inputs: [{ id: "3", name: "Scarlett 2i2 USB", isDefault: true },
    { id: "7", name: "Built-in Audio Analog Stereo", isDefault: false }],
  outputs: [{ id: "4", name: "Headphones (Scarlett 2i2 USB)", isDefault: true },
    { id: "9", name: "HDMI / DisplayPort", isDefault: false }], problem: "" };

  async devices() { return this.found; }

  // Keeps a message and answers with the state that it leads to, as an engine does.
  set(message) {
    this.sent.push(message);
    const { controls } = this.latest, { do: what, stem, on, db } = message;
    const names = { mute: "muted", solo: "soloed" }[what];
    if (names) controls[names] = controls[names].filter((name) => name !== stem);
    if (names && on) controls[names] = [...controls[names], stem];
    if (what === "gain") controls.gains_db = { ...controls.gains_db, [stem]: db };
    if (what === "strength") controls.strength_db = db;
    if (what === "bypass") controls.is_bypassed = on;
    if (what === "reset") Object.assign(controls, initialState().controls, { strength_db:
      controls.strength_db, is_bypassed: controls.is_bypassed });
    if (what === "record") this.latest.stats.recording.is_running = on;
    this.state();
  }

  async openFile(file) { throw new Error(`no files in this test: ${file.name}`); }

  listen(listener) {
    this.listener = listener;
    this.state();
  }

  async start(devices) {
    this.calls.push(["start", devices]);
    await this.startGate;
    if (this.startProblem) throw new Error(this.startProblem);
    this.state({ running: true, stats: stats(), ...devices });
  }

  async stop() {
    this.calls.push(["stop"]);
    this.state({ running: false, stats: null });
  }

  // Sends a state with changes to the latest one; those of `controls` one by one.
  state(changes = {}) {
    this.latest = { ...this.latest, ...changes,
      controls: { ...this.latest.controls, ...changes.controls } };
    this.listener.state(structuredClone(this.latest));
  }

  picture(columns, level) { this.listener.picture(picture(columns, level)); }
  close(reason) { this.listener.closed(reason); }
}

export async function openBackend() {
  const backend = new FakeBackend();
  Object.assign(backend.about, globalThis.fakeAbout);
  Object.assign(backend, globalThis.fakeBackend);
  globalThis.backend = backend;
  globalThis.make = { initialState, stats, picture };
  if (globalThis.openProblem) throw new Error(globalThis.openProblem);
  return backend;
}
