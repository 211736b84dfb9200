// The keys of the page, the same as those of the terminal's display.

import { make } from "./dom.js";

export const KEYS = [
  ["left/right", "choose a stem"],
  ["up/down", "its gain"],
  ["m", "mute it"],
  ["s", "solo it"],
  ["[ ]", "strength: how far the others are turned down"],
  ["b", "bypass: the input, equally loud"],
  ["r", "record on/off"],
  ["0", "all gains to 0 dB, nothing muted or soloed"],
  ["q", "stop"],
];
const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
const SHOWN = { left: "\u2190", right: "\u2192", up: "\u2191", down: "\u2193" };
const TYPING = "input:not([type=range]):not([type=checkbox]):not([type=radio]), select, textarea";
const OWN_ARROWS = `${TYPING}, input, [role=tab]`; // these use the arrows themselves

// The name of a pressed key as in KEYS, or null where it belongs to the browser or a field.
export function keyOf(event) {
  const isShortcut = event.ctrlKey || event.metaKey || event.altKey;
  if (event.defaultPrevented || isShortcut && !event.getModifierState("AltGraph")) return null;
  const target = event.target instanceof Element ? event.target : document.body;
  const arrow = ARROWS[event.key];
  if (target.closest(arrow ? OWN_ARROWS : TYPING) || target.isContentEditable) return null;
  return arrow ?? (event.key.length === 1 ? event.key.toLowerCase() : null);
}

// Returns the dialog that lists the keys; open it with showModal().
export function createKeysDialog() {
  const rows = KEYS.map(([keys, what]) => {
    const caps = keys.split(/[/ ]/).map((key) => make("kbd", { text: SHOWN[key] ?? key }));
    return make("div", {}, make("dt", {}, ...caps), make("dd", { text: what }));
  });
  const close = make("button", { text: "Close", on: { click: () => dialog.close() } });
  const dialog = make("dialog", { "aria-labelledby": "keys-title" },
    make("h2", { id: "keys-title", text: "Keys" }),
    make("dl", { class: "keys" }, ...rows),
    make("p", { class: "quiet", text: "Double-click a fader to set it to 0 dB. On a fader, the"
      + " arrows move that fader." }),
    close);
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // outside of its box
  });
  return dialog;
}
