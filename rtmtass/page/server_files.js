// Recordings that the local server separates: uploaded, followed, then read piece by piece.

const POLL_MS = 300;
const ALIVE_MS = 60_000; // the server removes what no page asks for
const LONGEST_NAME = 200;
const HEADER_BYTES = 4;
const GONE = "rtmtass doesn't answer; if it has ended, start it again and drop the file again";

// Uploads and separates a file; returns the recording. `progress` gets {phase, fraction, leftS,
// note}; fraction and leftS are null while unknown. Aborting `signal` removes what was uploaded.
export async function openFile(file, { progress, signal }) {
  const { id } = JSON.parse(await upload(file, progress, signal));
  const base = `api/files/${id}`;
  try {
    const about = await separate(base, progress, signal);
    return new ServerRecording(base, about);
  } catch (error) {
    remove(base);
    throw error;
  }
}

function upload(file, progress, signal) {
  signal.throwIfAborted();
  const query = new URLSearchParams({ name: shortName(file.name) });
  const started = performance.now();
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch doesn't say how much it has sent
    request.open("POST", `api/files?${query}`);
    request.upload.onprogress = ({ loaded, total }) => {
      const fraction = total ? loaded / total : null;
      const passedS = (performance.now() - started) / 1000;
      progress({ phase: "uploading", fraction, leftS: fraction ? passedS / fraction - passedS : null });
    };
    request.onload = () => {
      if (request.status === 200) resolve(request.responseText);
      else reject(new Error(request.responseText.trim() || `the upload failed: ${request.status}`));
    };
    request.onerror = () => reject(new Error(GONE));
    request.onabort = () => reject(signal.reason);
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

// A name is only shown; its suffix says what the file holds.
function shortName(name) {
  if (name.length <= LONGEST_NAME) return name;
  const suffix = /\.[^.]{1,9}$/.exec(name)?.[0] ?? "";
  return name.slice(0, LONGEST_NAME - suffix.length) + suffix;
}

async function separate(base, progress, signal) {
  for (;;) {
    const about = await (await ask(base, { signal })).json();
    if (about.state === "done") return about;
    if (about.state === "failed") throw new Error(about.problem);
    progress({ phase: about.state, fraction: about.fraction, leftS: about.left_s, note: about.note });
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    signal.throwIfAborted();
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw options.signal?.aborted ? error : new Error(GONE);
  }
  if (!response.ok) throw new Error((await response.text()).trim() || `${path}: ${response.status}`);
  return response;
}

function remove(base) {
  fetch(base, { method: "DELETE", keepalive: true }).catch(() => {}); // it ends with the server
}

class ServerRecording {
  #base;
  #alive;
  #leave = () => this.close();
  canLimit = true; // the peaks of a mix

  constructor(base, about) {
    this.#base = base;
    this.name = about.name;
    this.sampleRate = about.sample_rate;
    this.channels = about.channels;
    this.frames = about.frames;
    this.tracks = about.tracks;
    this.clipped = about.clipped;
    this.#alive = setInterval(() => ask(base).catch(() => {}), ALIVE_MS);
    addEventListener("pagehide", this.#leave);
  }

  async overview() {
    const peaks = new Int8Array(await this.#bytes("overview"));
    return { columns: peaks.length / this.tracks.length, peaks };
  }

  async picture() {
    const buffer = await this.#bytes("picture");
    const view = new DataView(buffer);
    return { columns: view.getUint16(0, true), rows: view.getUint8(2), bands: view.getUint8(3),
      data: new Uint8Array(buffer, HEADER_BYTES) };
  }

  async read(start, frames) {
    const samples = new Float32Array(await this.#bytes(`samples?start=${start}&frames=${frames}`));
    const length = samples.length / this.tracks.length;
    return this.tracks.map((_, k) => samples.subarray(k * length, (k + 1) * length));
  }

  // Starts the download of a stem, or of the mix as `controls` set it; resolves with {clipped},
  // the samples of the mix that were clipped at full scale, when the browser has taken over.
  async download(what, controls, { progress = () => {}, signal, isLimited = false } = {}) {
    if (what !== "mix") {
      save(`${this.#base}/stems/${encodeURIComponent(what)}`);
      return { clipped: 0 };
    }
    const address = `${this.#base}/mix?${mixQuery(controls, isLimited)}`;
    const response = await ask(address, { method: "POST", signal });
    const last = await readLines(response.body, progress);
    if (last.problem) throw new Error(last.problem);
    save(address);
    return { clipped: last.clipped };
  }

  close() {
    clearInterval(this.#alive);
    removeEventListener("pagehide", this.#leave);
    remove(this.#base);
  }

  async #bytes(path) {
    return (await ask(`${this.#base}/${path}`)).arrayBuffer();
  }
}

function mixQuery(controls, isLimited) {
  const { gains_db: gains, muted, soloed, strength_db: strength } = controls;
  const query = new URLSearchParams();
  for (const [stem, db] of Object.entries(gains)) query.set(stem, db ?? "off");
  if (muted.length) query.set("muted", muted.join());
  if (soloed.length) query.set("soloed", soloed.join());
  if (strength !== null) query.set("strength", strength);
  if (isLimited) query.set("limit", "1");
  return query;
}

// Reads lines of JSON, passes each to `progress` and returns the last.
async function readLines(body, progress) {
  let rest = "", last = null;
  for (const reader = body.pipeThrough(new TextDecoderStream()).getReader();;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean)) {
      last = JSON.parse(line);
      progress(last);
    }
  }
  if (last === null) throw new Error(GONE);
  return last;
}

function save(address) {
  const link = document.createElement("a");
  link.href = address;
  link.download = ""; // the server says the name
  link.click();
}
