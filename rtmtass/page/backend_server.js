// The engine in another process, over a WebSocket: what rtmtass web and rtmtass live --web serve.

import { openFile } from "./server_files.js";

export { openFile };

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 4000;
const PATIENCE_MS = 12_000; // after it, the server has probably ended
const START_TIMEOUT_MS = 120_000; // a first start may compile for a minute
const HEADER_BYTES = 4;
const LOST = "The connection to rtmtass is lost. Trying again\u2026";
const ENDED = "rtmtass doesn't answer. If it has ended, start it again, and open the address that"
  + " it prints.";

export async function openBackend() {
  const about = await getJson("api/about");
  return new ServerBackend(about);
}

async function getJson(path) {
  const response = await fetch(path);
  const text = await response.text();
  if (!response.ok) throw new Error(text.trim() || `${path}: ${response.status}`);
  return JSON.parse(text);
}

class ServerBackend {
  kind = "server";
  missing = [];
  #socket = null;
  #listener = null;
  #state = null;
  #waitMs = FIRST_WAIT_MS;
  #lostAt = 0;
  #waiting = null; // {isDone(state), hasBegun, resolve, reject, timer} of a start or stop

  constructor(about) {
    this.about = about;
  }

  listen(listener) {
    this.#listener = listener;
    this.#connect();
  }

  devices() {
    return getJson("api/devices");
  }

  openFile(file, options) {
    return openFile(file, options);
  }

  set(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  start({ input, output }) {
    return this.#ask({ do: "start", input, output }, (state) => state.running && state.stats);
  }

  stop() {
    return this.#ask({ do: "stop" }, (state) => !state.running);
  }

  // Sends a message and waits for the state that it leads to.
  #ask(message, isDone) {
    this.#settle(new Error("another start or stop came first"));
    if (this.#socket?.readyState !== WebSocket.OPEN) return Promise.reject(new Error(LOST));
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#settle(new Error("rtmtass didn't do it within"
        + ` ${START_TIMEOUT_MS / 1000} s; look at its terminal for the reason`)),
      START_TIMEOUT_MS);
      this.#waiting = { isDone, hasBegun: false, resolve, reject, timer };
      this.set(message);
    });
  }

  #settle(error) {
    const waiting = this.#waiting;
    if (!waiting) return;
    this.#waiting = null;
    clearTimeout(waiting.timer);
    if (error) waiting.reject(error);
    else waiting.resolve();
  }

  #connect() {
    const url = new URL("ws", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = () => this.#reconnect();
    this.#socket = socket;
  }

  #reconnect() {
    const now = performance.now();
    this.#lostAt ||= now;
    this.#settle(new Error(LOST));
    this.#listener.closed(now - this.#lostAt > PATIENCE_MS ? ENDED : LOST);
    setTimeout(() => this.#connect(), this.#waitMs);
    this.#waitMs = Math.min(2 * this.#waitMs, LONGEST_WAIT_MS);
  }

  #receive(data) {
    if (data instanceof ArrayBuffer) {
      this.#listener.picture(parsePicture(data));
      return;
    }
    const { kind, ...content } = JSON.parse(data);
    if (kind === "state") this.#accept(content);
    else if (kind === "problem") this.#refuse(content.text);
  }

  #accept(state) {
    const before = this.#state;
    this.#state = state;
    this.#waitMs = FIRST_WAIT_MS;
    this.#lostAt = 0;
    this.#listener.state(state);
    const waiting = this.#waiting;
    if (!waiting) return;
    // The problem of a former start is shown until the server has begun with this one.
    waiting.hasBegun ||= state.running || !state.problem || state.problem !== before?.problem;
    if (waiting.isDone(state)) this.#settle(null);
    else if (waiting.hasBegun && !state.running && state.problem) {
      this.#settle(new Error(state.problem));
    }
  }

  // The server refused a message: the state stays, and the page shows why.
  #refuse(text) {
    if (this.#waiting) this.#settle(new Error(text));
    else if (this.#state) this.#listener.state({ ...this.#state, problem: text });
  }
}

// A picture: u16 columns (little-endian), u8 rows, u8 bands, then column after column.
export function parsePicture(buffer) {
  const view = new DataView(buffer);
  return { columns: view.getUint16(0, true), rows: view.getUint8(2), bands: view.getUint8(3),
    data: new Uint8Array(buffer, HEADER_BYTES) };
}
