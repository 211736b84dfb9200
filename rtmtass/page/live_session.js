// One run of the live engine in the browser: microphone, audio thread, output, recording.

import { microphoneProblem } from "./capabilities.js";
import { save } from "./browser_files.js";

const FADE_MS = 120; // latency and ramp of the mix, before a stop
const PATIENCE_MS = 2000; // for the last piece of a recording
const SETTLED_MS = 300, LONGEST_SETTLING_MS = 3000;

// Resolve once the engine is compiled well; see warm_worker.js.
export function warmUp({ module, model }) {
  const worker = new Worker(new URL("warm_worker.js", import.meta.url), { type: "module" });
  return new Promise((resolve) => {
    worker.onmessage = worker.onerror = () => { // without it the sound is only less steady
      worker.terminate();
      resolve();
    };
    worker.postMessage({ module, model });
  });
}

export class LiveSession {
  // Open everything and start. Rejects with the line to show. Args: ids of devices or null, a
  // promise of the engine {module, wasm, model}, the messages that set the mix, and
  // {report(report), ended(problem)}.
  static async open(input, output, engine, messages, listener) {
    const session = new LiveSession(listener);
    try {
      await session.#open(input, output, engine, messages);
    } catch (error) {
      await session.#close();
      throw error;
    }
    return session;
  }

  #listener;
  #microphone = null;
  #node = null;
  #take = null;

  constructor(listener) {
    this.#listener = listener;
    // Made before anything is awaited: browsers start sound only in answer to a click.
    this.context = new AudioContext({ latencyHint: "balanced" });
  }

  async #open(input, output, engine, messages) {
    const { context } = this;
    context.suspend(); // until the engine is there: making it takes the audio thread a while
    const modules = context.audioWorklet.addModule(new URL("live_worklet.js", import.meta.url));
    modules.catch(() => {}); // it also fails if the context is closed before, which isn't news
    this.#microphone = await openMicrophone(input);
    if (output && context.setSinkId) await context.setSinkId(output);
    await modules;
    const source = this.#source();
    this.#node = await openNode(context, await engine, messages);
    const track = this.#microphone.getAudioTracks()[0];
    this.inputName = track.label || "microphone";
    this.inputId = track.getSettings().deviceId ?? null;
    this.inputLatencyS = track.getSettings().latency ?? 0;
    track.onended = () => this.#end("the microphone was unplugged or taken away");
    this.#node.onprocessorerror = () => this.#end("the audio thread failed; start again");
    this.latency = await firstMessage(this.#node);
    this.#node.port.onmessage = ({ data }) => this.#listener.report(data);
    this.#node.connect(context.destination);
    await context.resume();
    await settle(context);
    source.connect(this.#node); // from here on there is sound
  }

  #source() {
    try {
      return this.context.createMediaStreamSource(this.#microphone);
    } catch {
      throw new Error("this browser needs microphone and loudspeaker at one sample rate: choose"
        + " other devices, or set both to the same rate in the system's settings");
    }
  }

  set(message) { this.#node.port.postMessage(message); }

  // Start a recording; `listener` gets {seconds}, {problem}, or {files} once it ended.
  startTake(stems, name, listener) {
    const worker = new Worker(new URL("take_worker.js", import.meta.url), { type: "module" });
    const { port1, port2 } = new MessageChannel();
    const done = new Promise((resolve) => {
      worker.onerror = () => listener({ problem: "this browser can't record in a worker" });
      worker.onmessage = ({ data }) => {
        if (data.files) for (const file of data.files) save(file.name, file.blob);
        if (data.files || data.problem) resolve();
        listener(data);
      };
    });
    worker.postMessage(
      { port: port2, stems, sampleRate: this.context.sampleRate, name }, [port2]);
    this.#node.port.postMessage({ do: "take", port: port1 }, [port1]);
    this.#take = { done, finish: () => worker.postMessage({ end: true }) };
  }

  // End the recording, and wait until its files are complete.
  async endTake() {
    const take = this.#take;
    if (!take) return;
    this.#take = null;
    this.set({ do: "end take" });
    const timer = setTimeout(take.finish, PATIENCE_MS); // the audio thread may have failed
    await take.done;
    clearTimeout(timer);
  }

  // Fade out, end the recording, and give the devices back.
  async stop() {
    this.set({ do: "fade" });
    await new Promise((resolve) => setTimeout(resolve, FADE_MS));
    await this.endTake();
    await this.#close();
  }

  async #end(problem) {
    await this.endTake();
    await this.#close();
    this.#listener.ended(problem);
  }

  async #close() {
    for (const track of this.#microphone?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    this.#node?.port.postMessage({ do: "stop" });
    this.#node?.disconnect();
    if (this.context.state !== "closed") await this.context.close();
  }
}

// The rights are asked for here, once a person starts; the sound comes as it is.
async function openMicrophone(id) {
  const audio = {
    echoCancellation: false, noiseSuppression: false, autoGainControl: false,
    ...(id ? { deviceId: { exact: id } } : {}),
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new Error(microphoneProblem(error));
  }
}

// Make the node; where a compiled module can't be sent to the audio thread, its bytes are.
async function openNode(context, { module, wasm, model }, messages) {
  const make = (sent) => new AudioWorkletNode(context, "rtmtass-live", {
    numberOfInputs: 1, numberOfOutputs: 1, outputChannelCount: [1],
    channelCount: 1, channelCountMode: "explicit",
    processorOptions: { module: sent, model, messages },
  });
  try {
    return make(module);
  } catch {
    return make(wasm);
  }
}

// Let the engine run in silence until the output keeps up: the first moments of an audio thread
// compete with the browser's compiler.
async function settle(context) {
  const count = () => context.playbackStats?.underrunEvents ?? 0;
  const began = performance.now();
  for (let since = began, before = count(); ;) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    const now = performance.now();
    if (count() !== before) [since, before] = [now, count()];
    if (now - since > SETTLED_MS || now - began > LONGEST_SETTLING_MS) return;
  }
}

// Return the engine's latency in samples, which it says once it runs.
function firstMessage(node) {
  return new Promise((resolve, reject) => {
    node.port.onmessage = ({ data }) => resolve(data.latency);
    node.onprocessorerror = () => reject(new Error("the audio thread couldn't start the engine"));
  });
}
