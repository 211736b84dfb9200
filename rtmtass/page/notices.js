// The lines above the views: what went wrong and what to do, each at most once.

import { make, setAttribute } from "./dom.js";

const ROLES = { bad: "alert", wait: "status", hint: "status" };

export class Notices {
  #element;
  #lines = new Map();

  constructor(element) {
    this.#element = element;
  }

  // Shows a line under a name, in the place of the former one; "" takes it away. The tone is "bad"
  // for failures, "wait" for what passes by itself and "hint" for advice.
  set(name, text, tone = "bad") {
    const line = this.#lines.get(name);
    if (!text) {
      line?.remove();
      this.#lines.delete(name);
    } else if (line?.textContent !== text) {
      const role = ROLES[tone];
      const next = line ?? make("p", { class: `notice ${tone}`, role });
      next.textContent = text;
      this.#lines.set(name, next);
      if (!line) this.#element.append(next);
    }
    this.#hideRepeated();
  }

  // The same line may come from two places, such as a failed start and the next state.
  #hideRepeated() {
    const seen = new Set();
    for (const line of this.#lines.values()) {
      line.hidden = seen.has(line.textContent);
      seen.add(line.textContent);
    }
    setAttribute(this.#element, "data-count", seen.size);
  }
}
