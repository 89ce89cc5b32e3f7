// Elements without innerHTML: text is always text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Make an HTML element. Attributes that begin with `--` become custom properties, those that begin with `on` listeners. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function $(selector, within = document) {
  return within.querySelector(selector);
}

export function $$(selector, within = document) {
  return [...within.querySelectorAll(selector)];
}

/** Is the visitor typing? Single-key shortcuts then keep out of the way. */
export function isTyping(target) {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable]") !== null;
}

let said = 0;

/** Tell a screen reader; a second, equal message is told as well. */
export function announce(message) {
  const live = document.getElementById("live");
  if (live) live.textContent = message + (said++ % 2 ? "\u00a0" : "");
}
