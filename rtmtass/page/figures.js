// Latency, computing time and losses of a running stream, and its latest messages.

import { make, setAttribute, setText } from "./dom.js";
import { NOTHING, countText, millisecondsText } from "./format.js";

const UPDATE_MS = 250; // figures that change faster can't be read
const ALARM_MS = 4000;
const N_MESSAGES = 5;

export class Figures {
  #items = new Map();
  #load = make("i");
  #counts = new Map();
  #alarmedAt = new Map();
  #updatedAt = -Infinity;

  constructor() {
    const load = make("div", { class: "load", "aria-hidden": "true" }, this.#load);
    const items = [
      this.#item("latency", "Latency", "ms"), this.#item("step", "Step", "ms", load),
      this.#item("cpu", "Processor", "% of a core"), this.#item("xruns", "Xruns", ""),
      this.#item("late", "Late hops", ""),
    ];
    this.element = make("dl", { class: "card figures", "aria-label": "Figures" }, ...items);
  }

  #item(name, label, unit, ...more) {
    const value = make("b", { text: NOTHING }), note = make("small");
    this.#items.set(name, { value, note, element: null });
    const item = make("div", { "data-name": name }, make("dt", { text: label }),
      make("dd", {}, make("span", {}, value, unit ? ` ${unit}` : ""), ...more, note));
    this.#items.get(name).element = item;
    return item;
  }

  #show(name, value, note) {
    const item = this.#items.get(name);
    setText(item.value, value);
    setText(item.note, note);
  }

  // Shows the newest figures, if it is time for others; none while nothing runs.
  update(stats, now) {
    if (!stats) {
      if (this.#updatedAt !== -Infinity) this.#clear();
      return;
    }
    if (now - this.#updatedAt < UPDATE_MS) return;
    this.#updatedAt = now;
    const { steps, device } = stats;
    const deadline = steps.deadline_ms;
    const recent = steps.recent_ms || steps.p50_ms;
    this.#show("latency", millisecondsText(device?.latency?.total_ms),
      latencyNote(device?.latency));
    this.#show("step", millisecondsText(recent, 2),
      `of ${millisecondsText(deadline, 0)} \u00b7 longest ${millisecondsText(steps.max_ms)}`);
    const share = deadline ? Math.min(1, recent / deadline) : 0;
    this.#load.style.transform = `scaleX(${share.toFixed(3)})`;
    this.#show("cpu", (100 * stats.cpu_share).toFixed(0), "");
    const late = stats.deadline_misses + stats.skipped;
    this.#show("xruns", countText(device?.xruns ?? 0),
      `${countText(device?.overruns ?? 0)} in, ${countText(device?.underruns ?? 0)} out lost`);
    this.#show("late", countText(late), `of ${countText(stats.hops)}`);
    this.#alarm("xruns", device?.xruns ?? 0, now);
    this.#alarm("late", late, now);
  }

  // Marks a counter for some seconds after it rose.
  #alarm(name, count, now) {
    const before = this.#counts.get(name) ?? count;
    this.#counts.set(name, count);
    if (count > before) this.#alarmedAt.set(name, now);
    const isRecent = now - (this.#alarmedAt.get(name) ?? -Infinity) < ALARM_MS;
    setAttribute(this.#items.get(name).element, "data-alarm", isRecent);
  }

  #clear() {
    this.#updatedAt = -Infinity;
    this.#counts.clear();
    for (const [name, item] of this.#items) {
      this.#show(name, NOTHING, "");
      setAttribute(item.element, "data-alarm", false);
    }
    this.#load.style.transform = "scaleX(0)";
  }
}

function latencyNote(latency) {
  if (!latency) return "";
  if (Number.isFinite(latency.measured_ms)) {
    return `measured ${millisecondsText(latency.measured_ms)}`;
  }
  const parts = [latency.device_in_ms, latency.algorithm_ms, latency.buffer_ms,
    latency.device_out_ms].map((ms) => millisecondsText(ms, 0));
  return `in ${parts[0]} + model ${parts[1]} + buffer ${parts[2]} + out ${parts[3]}`;
}

export class Messages {
  #list = make("ol", { role: "log", "aria-label": "Messages", tabindex: "-1" });
  #shown = "";

  constructor() {
    this.element = make("section", { class: "card messages", hidden: true, "aria-label":
      "Messages" }, make("h2", { text: "Messages" }), this.#list);
  }

  // Shows the newest of lines such as "00:05 the device was lost".
  update(lines) {
    const latest = lines.slice(-N_MESSAGES);
    const text = latest.join("\n");
    if (text === this.#shown) return;
    this.#shown = text;
    this.element.hidden = !latest.length;
    this.#list.replaceChildren(...latest.map((line) => {
      const [, at, what] = /^([\d:]+) (.*)$/s.exec(line) ?? [null, "", line];
      return make("li", {}, make("time", { text: at }), make("span", { text: what }));
    }));
  }
}
