// Puts the page together: the backend, the views and their tabs, keys, and files that are dropped.

import { openBackend } from "./backend.js";
import { make } from "./dom.js";
import { createFileView } from "./file_view.js";
import { createKeysDialog, keyOf } from "./keys.js";
import { LiveView } from "./live_view.js";
import { Notices } from "./notices.js";

const find = (id) => document.getElementById(id);
const TABS = ["live", "file"];

function showTab(name) {
  for (const tab of TABS) {
    const isShown = tab === name, button = find(`tab-${tab}`);
    find(tab).hidden = !isShown;
    button.setAttribute("aria-selected", String(isShown));
    button.tabIndex = isShown ? 0 : -1;
  }
}

function listenForTabs(shown) {
  const show = (name) => {
    showTab(name);
    shown(name);
  };
  for (const tab of TABS) {
    find(`tab-${tab}`).addEventListener("click", () => show(tab));
    find(`tab-${tab}`).addEventListener("keydown", (event) => {
      if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      const other = TABS[1 - TABS.indexOf(tab)];
      show(other);
      find(`tab-${other}`).focus();
    });
  }
  return show;
}

function listenForKeys(view) {
  const dialog = createKeysDialog();
  document.body.append(dialog);
  find("show-keys").addEventListener("click", () => dialog.showModal());
  document.addEventListener("keydown", (event) => {
    if (dialog.open) return;
    const key = keyOf(event);
    if (key === "?") dialog.showModal();
    if (key === null || find("live").hidden) return;
    if (["up", "down"].includes(key)) event.preventDefault(); // else the page scrolls
    view.press(key);
  });
}

// A file may be dropped anywhere: the File view gets it as an "openfile" event.
function listenForDrops(fileView, show) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const hint = find("drop-hint");
  addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hint.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) hint.hidden = true;
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    hint.hidden = true;
    const [file] = event.dataTransfer.files;
    if (!file) return;
    show("file");
    fileView.dispatchEvent(new CustomEvent("openfile", { detail: file }));
  });
}

async function main() {
  const notices = new Notices(find("notices"));
  try {
    const backend = await openBackend();
    const { model, version } = backend.about;
    find("model").textContent = `${model} \u00b7 ${version}`;
    const live = new LiveView(backend, notices);
    const fileView = createFileView(backend);
    find("live").append(live.element);
    find("file").append(fileView);
    listenForKeys(live);
    listenForDrops(fileView, listenForTabs((name) => name === "live" && live.wake()));
    live.wake();
  } catch (error) {
    notices.set("open", `The page can't reach what separates the sound: ${error.message}`);
    const retry = make("button", { text: "Try again", on: { click: () => location.reload() } });
    find("live").append(retry);
  }
}

main();
