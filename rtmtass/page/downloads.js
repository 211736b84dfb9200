// The downloads of a recording: each stem, and the mix as the faders are set.

import { make, setAttribute, setProperty, setText } from "./dom.js";
import { capitalised, countText } from "./format.js";

export class Downloads {
  #recording;
  #controls;
  #aborter = null; // of a mix that is being made
  #mix;
  #limit = make("input", { type: "checkbox" });
  #bar = make("progress", { max: 1, value: 0, "aria-label": "Progress of the mix", hidden: true });
  #status = make("p", { class: "quiet download-status", role: "status" });

  // Args: the recording; a function that returns the present controls.
  constructor(recording, controls) {
    this.#recording = recording;
    this.#controls = controls;
    const stems = recording.tracks.slice(1).map((stem) => make("button", {
      class: "stem-download", "data-stem": stem, text: capitalised(stem),
      "aria-label": `Download ${stem}`, on: { click: () => this.#start(stem) } }));
    this.#mix = make("button", { class: "mix-download", on: { click: () => this.#startMix() } });
    this.#limit.addEventListener("change", () => this.#say(""));
    this.element = make("section", { class: "card downloads", "aria-label": "Downloads" },
      make("h2", { text: "Download" }),
      make("div", { class: "download-buttons" }, ...stems, this.#mix,
        make("label", { class: "check", hidden: !recording.canLimit,
          title: "keeps peaks below full scale (\u22121 dBTP) instead of clipping them" },
        this.#limit, "Limit peaks of the mix")),
      this.#bar, this.#status);
    this.#show();
  }

  // The mix isn't what was last downloaded any more.
  update() {
    if (!this.#aborter) this.#say("");
  }

  async #start(what) {
    try {
      await this.#recording.download(what, this.#controls());
    } catch (error) {
      this.#say(error.message, true);
    }
  }

  async #startMix() {
    if (this.#aborter) {
      this.#aborter.abort();
      return;
    }
    const aborter = this.#aborter = new AbortController();
    this.#say("");
    setProperty(this.#bar, "value", 0);
    this.#show();
    try {
      const { clipped = 0 } = await this.#recording.download("mix", this.#controls(), {
        signal: aborter.signal, isLimited: this.#limit.checked,
        progress: ({ fraction }) => setProperty(this.#bar, "value", fraction ?? 0),
      }) ?? {};
      if (clipped) this.#say(clippedText(clipped), true);
    } catch (error) {
      if (!aborter.signal.aborted) this.#say(error.message, true);
    } finally {
      this.#aborter = null;
      this.#show();
    }
  }

  #show() {
    setText(this.#mix, this.#aborter ? "Cancel the mix" : "Mix as set");
    setProperty(this.#bar, "hidden", this.#aborter === null);
  }

  #say(text, isBad = false) {
    setText(this.#status, text);
    setAttribute(this.#status, "data-bad", isBad);
  }
}

function clippedText(count) {
  return `${countText(count)} sample${count === 1 ? "" : "s"} of the mix reached beyond full scale`
    + " and were clipped: lower the faders, or limit its peaks.";
}
