// The bar that chooses the devices, starts and stops, and says what the stream is doing.

import { freshId, make, setAttribute, setProperty, setText } from "./dom.js";
import { clock } from "./format.js";

const SLOW_START_S = 5;
const STATES = {
  running: ["good", "Running"],
  waiting: ["busy", "Waiting for the device"],
  reconnecting: ["busy", "Reconnecting the device"],
  stopped: ["idle", "Stopped"],
  failed: ["bad", "Failed"],
};

export class DeviceBar {
  #backend;
  #notices;
  #state = null;
  #phase = null; // "starting" or "stopping", while the backend is asked to
  #since = 0;
  #isLost = false;
  #isAvailable = true;
  #button = make("button", { class: "primary", on: { click: () => this.toggle() } });
  #dot = make("i", { class: "dot", "aria-hidden": "true" });
  #word = make("span", { role: "status" });
  #time = make("span", { class: "time", role: "timer" });
  #title = make("p", { class: "title" });
  #input;
  #output;

  constructor(backend, notices) {
    this.#backend = backend;
    this.#notices = notices;
    this.#input = new DeviceSelect("Input", () => this.#switch());
    this.#output = new DeviceSelect("Output", () => this.#switch());
    const refresh = make("button", { class: "icon", "aria-label": "Look for devices again",
      title: "look for devices again", text: "\u21bb", on: { click: () => this.refresh() } });
    const status = make("div", { class: "status" }, this.#dot,
      make("div", {}, this.#word, this.#time));
    const parts = backend.about.canChoose
      ? [this.#input.element, this.#output.element, refresh, this.#button, status]
      : [this.#title, status];
    this.element = make("section", { class: "card devices", "aria-label": "Devices" }, ...parts);
    this.#render();
  }

  get isRunning() { return !this.#isLost && Boolean(this.#state?.running); }

  // Without a backend that can separate live sound, nothing can be started.
  set isAvailable(isAvailable) {
    this.#isAvailable = isAvailable;
    this.#render();
  }

  // Asks the backend which devices there are.
  async refresh() {
    if (!this.#backend.about.canChoose || this.#isLost) return;
    try {
      const { inputs, outputs, problem } = await this.#backend.devices();
      this.#input.list(inputs);
      this.#output.list(outputs);
      this.#notices.set("devices", problem);
    } catch (error) {
      this.#notices.set("devices", error.message);
    }
    this.#showChosen();
    this.#render();
  }

  accept(state) {
    const wasLost = this.#isLost;
    this.#isLost = false;
    this.#state = state;
    this.#showChosen();
    this.#render();
    if (wasLost) this.refresh();
  }

  // The connection to the engine is gone.
  lose() {
    this.#isLost = true;
    this.#phase = null;
    this.#render();
  }

  toggle() {
    return this.isRunning ? this.stop() : this.start();
  }

  async start() {
    if (this.#button.disabled || this.isRunning) return;
    await this.#during("starting", () => this.#backend.start(this.#chosen()));
    if (this.isRunning) this.refresh(); // names of devices appear once they may be used
  }

  async stop() {
    if (!this.isRunning || !this.#backend.about.canChoose) return;
    await this.#during("stopping", () => this.#backend.stop());
  }

  // Other devices were chosen while sound runs: it goes on over them.
  async #switch() {
    if (!this.isRunning) return;
    await this.#during("starting", async () => {
      await this.#backend.stop();
      await this.#backend.start(this.#chosen());
    });
  }

  async #during(phase, action) {
    if (this.#phase) return;
    this.#phase = phase;
    this.#since = performance.now();
    this.#notices.set("start", "");
    const timer = setInterval(() => this.#render(), 500);
    this.#render();
    try {
      await action();
    } catch (error) {
      this.#notices.set("start", error.message);
    }
    clearInterval(timer);
    this.#phase = null;
    this.#render();
  }

  #chosen() {
    return { input: this.#input.value, output: this.#output.value };
  }

  #showChosen() {
    if (!this.#state || this.#phase) return;
    this.#input.value = this.#state.input;
    this.#output.value = this.#state.output;
  }

  #render() {
    const [tone, word] = this.#status();
    const isBusy = this.#phase !== null;
    setAttribute(this.element, "data-phase", this.#phase ?? "");
    setAttribute(this.#dot, "data-tone", tone);
    setText(this.#word, word);
    setText(this.#time, this.#timeText());
    setText(this.#title, this.#state?.title || "Nothing runs in the terminal");
    setText(this.#button, this.isRunning && this.#phase !== "starting" ? "Stop" : "Start");
    setAttribute(this.#button, "data-running", this.isRunning);
    const canStart = this.#isAvailable && this.#input.hasDevices && this.#output.hasDevices;
    setProperty(this.#button, "disabled", isBusy || this.#isLost
      || (!this.isRunning && !canStart));
    for (const select of [this.#input, this.#output]) select.setDisabled(isBusy || this.#isLost);
  }

  #status() {
    const { stats } = this.#state ?? {};
    if (this.#isLost) return ["bad", "No connection"];
    if (this.#phase === "stopping") return ["busy", "Stopping"];
    if (this.#phase === "starting" || (this.isRunning && !stats)) return ["busy", "Starting"];
    if (!this.isRunning) return STATES.stopped;
    if (stats.state === "running" && stats.recording?.is_running) return ["rec", "Recording"];
    return STATES[stats.state] ?? ["busy", "Starting"];
  }

  #timeText() {
    if (this.#phase === "starting") {
      const passed = (performance.now() - this.#since) / 1000;
      return passed < SLOW_START_S ? "" : clock(passed);
    }
    return this.isRunning && this.#state.stats ? clock(this.#state.stats.seconds) : "";
  }
}

class DeviceSelect {
  #select;
  #devices = [];
  #wanted = null;

  constructor(label, changed) {
    const id = freshId("device");
    this.#select = make("select", { id, on: { change: () => {
      this.#wanted = this.#select.value || null;
      changed();
    } } });
    this.element = make("div", { class: "field" }, make("label", { for: id, text: label }),
      this.#select);
    this.list([]);
  }

  // The chosen device's id; null is the system's default.
  get value() { return this.#wanted; }

  set value(id) {
    this.#wanted = id;
    const isListed = this.#devices.some((device) => device.id === id);
    const shown = isListed ? id : "";
    if (document.activeElement !== this.#select) setProperty(this.#select, "value", shown);
  }

  get hasDevices() { return this.#devices.length > 0; }

  setDisabled(isDisabled) {
    setProperty(this.#select, "disabled", isDisabled || !this.hasDevices);
  }

  list(devices) {
    this.#devices = devices;
    const standard = devices.find((device) => device.isDefault);
    const first = devices.length ? `Default${standard ? `: ${standard.name}` : ""}` : "None found";
    this.#select.replaceChildren(new Option(first, ""),
      ...devices.map((device) => new Option(device.name, device.id)));
    this.value = this.#wanted;
  }
}
