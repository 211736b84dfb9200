// The backend of the static page: the engine runs in the visitor's browser, and no sound leaves
// it. Live sound goes through live_session.js, files through browser_files.js; what the page asks
// for and is shown is the same as with a server.

import { pictureOf, Columns } from "./bands.js";
import { Controls } from "./browser_controls.js";
import { openFile } from "./browser_files.js";
import { findMissing } from "./capabilities.js";
import { NEW_HOPS } from "./live_report.js";
import { LiveSession, warmUp } from "./live_session.js";
import { LiveStats } from "./live_stats.js";
import { open } from "./rtmtass.js";

const MOST_MESSAGES = 20;
const PATIENCE_MS = 10_000; // before a start, on a slow computer

// Open the backend: reads what the export says about the model, and loads the engine meanwhile.
export async function openBackend() {
  const about = await (await load("about.json")).json();
  return new BrowserBackend(about, findMissing(), localStorageIfAllowed());
}

async function load(name) {
  const address = new URL(name, import.meta.url);
  const response = await fetch(address).catch(() => null);
  if (!response?.ok) {
    throw new Error(`${name} can't be loaded; check the connection, and that the whole exported`
      + " folder is on the server");
  }
  return response;
}

function localStorageIfAllowed() {
  try {
    return globalThis.localStorage;
  } catch {
    return null; // forbidden by the browser's settings
  }
}

class BrowserBackend {
  kind = "browser";
  #about;
  #controls;
  #listener = null;
  #engine = null; // a promise of {module, wasm, model}
  #opened = null; // the model, on this thread
  #warm = null; // a promise
  #session = null;
  #stats = null;
  #latest = null; // stats as last shown
  #columns = null;
  #recording = idleRecording();
  #messages = [];
  #startedAt = 0;
  #problem = "";

  constructor(about, missing, storage) {
    this.#about = about;
    this.about = {
      version: about.version, model: about.model, stems: about.stems,
      sampleRate: about.sampleRate, canChoose: true, maxUploadBytes: null,
    };
    this.canLive = !missing.all.length && !missing.live.length;
    this.canOpenFiles = !missing.all.length;
    this.missing = [...missing.all, ...missing.live];
    this.#controls = new Controls(about.stems, storage);
    if (this.canLive) this.#loadWarm().catch(() => {}); // a problem is shown when it matters
  }

  // Return the engine's parts, loaded and compiled once.
  #load() {
    this.#engine ??= this.#fetchEngine().catch((error) => {
      this.#engine = null; // so that the next try loads again
      throw error;
    });
    return this.#engine;
  }

  async #fetchEngine() {
    const [wasm, model] = await Promise.all(["rtmtass.wasm", this.#about.file].map(
      async (name) => (await load(name)).arrayBuffer()));
    const module = await WebAssembly.compile(wasm);
    this.#opened = open(module, model);
    return { module, wasm, model };
  }

  // Return the engine once it runs steadily, or after a while on a slow computer.
  async #loadWarm() {
    const engine = await this.#load();
    this.#warm ??= warmUp(engine);
    let timer = 0;
    const patience = new Promise((resolve) => { timer = setTimeout(resolve, PATIENCE_MS); });
    await Promise.race([this.#warm, patience]);
    clearTimeout(timer);
    return engine;
  }

  async devices() {
    const found = await navigator.mediaDevices?.enumerateDevices?.().catch(() => []) ?? [];
    const outputs = "setSinkId" in (globalThis.AudioContext?.prototype ?? {})
      ? listed(found, "audiooutput", "output") : [];
    if (!outputs.length) outputs.push({ id: "", name: "the system's output", isDefault: true });
    const inputs = listed(found, "audioinput", "microphone");
    if (!inputs.length && this.canLive) {
      return { inputs, outputs, problem: "no microphone is connected" };
    }
    return { inputs, outputs, problem: "" };
  }

  async start({ input = null, output = null } = {}) {
    if (!this.canLive) throw new Error(this.missing[0]);
    await this.stop();
    this.#problem = "";
    try {
      const engine = this.#loadWarm();
      engine.catch(() => {}); // it is awaited below, after the microphone
      this.#session = await LiveSession.open(
        input || null, output || null, engine, this.#controls.messages(), {
          report: (report) => this.#report(report),
          ended: (problem) => this.#ended(problem),
        });
    } catch (error) {
      this.#problem = error.message;
      this.#send();
      throw error;
    }
    const { context, latency, inputLatencyS } = this.#session;
    this.#stats = new LiveStats(this.#opened, context.sampleRate, latency, inputLatencyS);
    this.#columns = new Columns(
      this.#opened.stems.length, this.#opened.hop, this.#opened.sampleRate);
    this.#startedAt = performance.now();
    this.#controls.keepDevices(input, output);
    this.#send();
  }

  async stop() {
    const session = this.#session;
    if (!session) return;
    this.#session = null;
    await session.stop();
    this.#ended("");
  }

  // Take a message of the page; what isn't one changes nothing and is shown as a problem.
  set(message) {
    if (message?.do === "start" || message?.do === "stop") {
      const done = message.do === "start" ? this.start(message) : this.stop();
      done.catch(() => {}); // the state shows it
      return;
    }
    const problem = this.#controls.problem(message);
    if (problem) this.#note(problem);
    else if (message.do === "record") this.#record(message.on);
    else {
      this.#controls.apply(message);
      const sent = message.do === "reset" ? this.#controls.messages() : [message];
      for (const one of sent) this.#session?.set(one);
    }
    this.#send();
  }

  listen(listener) {
    this.#listener = listener;
    this.#send();
  }

  async openFile(file, options) {
    if (!this.canOpenFiles) throw new Error(this.missing[0]);
    const { module, model } = await this.#load();
    return openFile(file, options, { module, model });
  }

  #report(report) {
    if (!this.#stats || !this.#session) return;
    this.#latest = this.#stats.update(report, this.#session.context, this.#recording);
    const size = this.#opened.stems.length * this.#opened.hop, columns = [];
    for (let hop = 0; hop < report.figures[NEW_HOPS]; hop++) {
      columns.push(this.#columns.add(report.stems, hop * size).map((row) => row.slice()));
    }
    if (columns.length) this.#listener?.picture?.(pictureOf(columns, 1 + this.about.stems.length));
    this.#send();
  }

  #record(isOn) {
    if (!this.#session) {
      if (isOn) this.#note("start the sound before you record it");
    } else if (isOn && !this.#recording.is_running) {
      this.#recording = { ...idleRecording(), is_running: true, folder: "downloads" };
      this.#session.startTake(this.about.stems, takeName(), (data) => this.#noteTake(data));
    } else if (!isOn) {
      this.#session.endTake();
    }
  }

  #noteTake({ seconds, problem, files }) {
    if (seconds !== undefined) this.#recording = { ...this.#recording, seconds };
    if (problem) {
      this.#recording = { ...this.#recording, is_running: false, message: problem };
      this.#note(`the recording ended: ${problem}`);
    }
    if (files) {
      this.#recording = { ...this.#recording, is_running: false };
      this.#note(`recorded ${files.map(({ name }) => name).join(", ")}`);
    }
    if (this.#latest) this.#latest = { ...this.#latest, recording: this.#recording };
    this.#send();
  }

  #ended(problem) {
    this.#session = this.#stats = this.#latest = null;
    this.#recording = idleRecording();
    this.#problem = problem;
    this.#send();
  }

  #note(text) {
    const s = this.#startedAt ? Math.floor((performance.now() - this.#startedAt) / 1000) : 0;
    const two = (n) => String(n).padStart(2, "0");
    this.#messages.push(`${two(Math.floor(s / 60))}:${two(s % 60)} ${text}`);
    this.#messages = this.#messages.slice(-MOST_MESSAGES);
  }

  #send() {
    const { input, output } = this.#controls.devices;
    this.#listener?.state?.({
      running: Boolean(this.#session), stats: this.#latest, controls: this.#controls.state,
      title: this.#session ? `${this.#session.inputName} → this computer` : "",
      input, output, messages: [...this.#messages], problem: this.#problem,
    });
  }
}

// Return the devices of a kind; names are empty until the microphone may be used. Chromium lists
// its choices for "default" and "communications" too, which are devices that come again.
function listed(found, kind, name) {
  const all = found.filter((device) => device.kind === kind);
  const standard = all.find(({ deviceId }) => deviceId === "default");
  const real = all.filter(({ deviceId }) => !["default", "communications"].includes(deviceId));
  return (real.length ? real : all).map(({ deviceId, groupId, label }, i) => ({
    id: deviceId, name: label || `${name} ${i + 1}`,
    isDefault: standard ? groupId === standard.groupId : i === 0,
  }));
}

const idleRecording = () => ({ is_running: false, folder: "", seconds: 0, left_s: 0, message: "" });

function takeName() {
  const now = new Date(), two = (n) => String(n).padStart(2, "0");
  const day = [now.getFullYear(), two(now.getMonth() + 1), two(now.getDate())].join("");
  return `rtmtass-${day}-${[now.getHours(), now.getMinutes(), now.getSeconds()].map(two).join("")}`;
}
