// Takes the place of the File view in tests of the rest of the page: it lists the files it gets.

export function createFileView() {
  const view = document.createElement("section");
  view.textContent = "Drop a recording.";
  view.addEventListener("openfile", (event) => {
    view.textContent = `opened ${event.detail.name}`;
  });
  return view;
}
