// Makes elements from plain values, so that no text ever becomes HTML.

// Returns an element. `attributes` may hold `class`, `text`, `on` ({click: listener, ...}) and any
// attribute; true sets it empty, false and null leave it out. Children are elements or texts.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (name === "on") listen(element, value);
    else if (value !== null && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children);
  return element;
}

function listen(element, listeners) {
  for (const [type, listener] of Object.entries(listeners)) {
    element.addEventListener(type, listener);
  }
}

// Setters that touch the page only for a change: they are called with every state.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, name, value) {
  const text = String(value);
  if (element.getAttribute(name) !== text) element.setAttribute(name, text);
}

export function setProperty(element, name, value) {
  if (element[name] !== value) element[name] = value;
}

let made = 0;

// Returns an id that no other element has, for labels.
export function freshId(word) {
  made += 1;
  return `${word}-${made}`;
}
