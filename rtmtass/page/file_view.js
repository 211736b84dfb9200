// The File tab: takes a recording, shows how far its separation is, then its tracks.

import { make, setProperty, setText } from "./dom.js";
import { capitalised, clock } from "./format.js";
import { RecordingPanel } from "./recording_panel.js";

const PHASES = {
  uploading: "Reading the file",
  waiting: "Waiting for the recordings before this one",
  separating: "Separating",
};
const WHERE = {
  server: "It stays on this computer.",
  browser: "It stays in this browser: nothing is uploaded.",
};
const TYPES = "audio/*,video/*,.flac,.wav,.mp3,.ogg,.opus,.m4a,.aac,.aif,.aiff,.caf,.mkv,.webm";

// Returns the view, an element; an "openfile" event with a File as its detail opens that.
export function createFileView(backend) {
  return new FileView(backend).element;
}

class FileView {
  #backend;
  #aborter = null; // of what is being opened
  #panel = null;
  #problem = make("p", { class: "notice bad", role: "alert", hidden: true });
  #drop;
  #opening = new Opening(() => this.#cancel());
  #place = make("div");

  constructor(backend) {
    this.#backend = backend;
    this.#drop = createDropZone(backend, (file) => this.open(file));
    this.element = make("div", { class: "file" },
      this.#problem, this.#drop, this.#opening.element, this.#place);
    this.element.addEventListener("openfile", ({ detail }) => this.open(detail));
    document.addEventListener("keydown", (event) => {
      if (this.element.offsetParent !== null) this.#panel?.press(event);
    });
    addEventListener("beforeunload", (event) => {
      if (this.#aborter) event.preventDefault(); // the browser asks whether to leave
    });
    this.#show(null);
  }

  async open(file) {
    this.#aborter?.abort();
    this.#close();
    const aborter = new AbortController();
    this.#aborter = aborter;
    this.#show(null);
    this.#opening.start(file.name);
    try {
      this.#checkSize(file);
      const recording = await this.#backend.openFile(file, { signal: aborter.signal,
        progress: (state) => aborter.signal.aborted || this.#opening.update(state) });
      if (aborter.signal.aborted) recording.close();
      else await this.#showRecording(recording);
    } catch (error) {
      if (!aborter.signal.aborted) this.#fail(error);
    } finally {
      if (this.#aborter === aborter) this.#aborter = null;
      this.#show(this.#problem.textContent);
    }
  }

  #checkSize(file) {
    if (file.size === 0) {
      throw new Error(`${file.name} is empty (0 bytes); record or export it again`);
    }
    const most = this.#backend.about.maxUploadBytes;
    if (most !== null && file.size > most) {
      throw new Error(`${file.name} has ${sizeText(file.size)}; the most that is taken is`
        + ` ${sizeText(most)}. Start rtmtass web with a larger --max-upload, or use rtmtass separate`);
    }
  }

  async #showRecording(recording) {
    const panel = new RecordingPanel(recording, {
      close: () => {
        this.#close();
        this.#show(null);
      },
      choose: () => this.#drop.querySelector("input").click(),
    });
    this.#panel = panel;
    this.#place.replaceChildren(panel.element);
    await panel.load();
  }

  #fail(error) {
    this.#close();
    this.#problem.textContent = error.message;
  }

  #cancel() {
    this.#aborter?.abort();
    this.#aborter = null;
    this.#show(null);
  }

  #close() {
    this.#panel?.close();
    this.#panel = null;
    this.#place.replaceChildren();
  }

  #show(problem) {
    setText(this.#problem, problem ?? "");
    setProperty(this.#problem, "hidden", !problem);
    const isOpening = this.#aborter !== null;
    setProperty(this.#opening.element, "hidden", !isOpening);
    setProperty(this.#drop, "hidden", isOpening || this.#panel !== null);
  }
}

// Where a file is dropped or chosen; dropping works anywhere on the page.
function createDropZone(backend, choose) {
  const input = make("input", { type: "file", accept: TYPES, hidden: true, on: {
    change: () => {
      const [file] = input.files;
      input.value = ""; // so that the same file can be chosen again
      if (file) choose(file);
    } } });
  const button = make("button", { class: "primary", text: "Choose a file\u2026",
    on: { click: () => input.click() } });
  return make("section", { class: "card drop-zone", "aria-label": "Open a recording" },
    make("p", { class: "drop-title", text: "Drop a recording anywhere on this page" }),
    button, input,
    make("p", { class: "quiet", text: `Audio or video, of any length. ${WHERE[backend.kind]}` }));
}

// The progress of a recording that is being opened.
class Opening {
  #name = make("h2");
  #phase = make("span", { role: "status" });
  #left = make("span", { class: "quiet time" });
  #bar = make("progress", { max: 1, "aria-label": "Progress" });

  constructor(cancel) {
    this.element = make("section", { class: "card opening", "aria-label": "Opening" },
      make("div", { class: "head" }, this.#name,
        make("button", { text: "Cancel", on: { click: cancel } })),
      this.#bar,
      make("p", { class: "opening-text" }, this.#phase, this.#left));
  }

  start(name) {
    setText(this.#name, name);
    this.update({ phase: "uploading", fraction: null, leftS: null });
  }

  update({ phase, fraction, leftS, note }) {
    if (fraction === null || fraction === undefined) this.#bar.removeAttribute("value");
    else setProperty(this.#bar, "value", fraction);
    const text = PHASES[phase] ?? capitalised(phase);
    setText(this.#phase, note ? `${text}: ${note}` : text);
    const isKnown = Number.isFinite(leftS) && Number.isFinite(fraction);
    setText(this.#left, isKnown ? `${Math.floor(100 * fraction)} % \u00b7 ${leftText(leftS)}` : "");
  }
}

function leftText(seconds) {
  return `${clock(Math.ceil(seconds))} left`;
}

function sizeText(bytes) {
  return bytes < 1e9 ? `${(bytes / 1e6).toPrecision(3)} MB` : `${(bytes / 1e9).toPrecision(3)} GB`;
}
