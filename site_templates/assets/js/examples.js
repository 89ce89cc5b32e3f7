// The groups of examples, and how they are shown.

import { $$, h } from "./dom.js";
import { count, percent, significant } from "./format.js";
import { exampleRow } from "./example.js";
import { get, set } from "./store.js";
import { absent, deadText, isDead, term } from "./states.js";

/** Fill the main column. */
export function showExamples(container, record, context) {
  if (!record.groups?.some((group) => group.examples.length)) {
    const text = isDead(record) ? `${deadText(record)}, so there is nothing to show. What it would write is beside.` : "This site holds no examples of this feature.";
    container.replaceChildren(h("section", { class: "panel none" }, absent(text)));
    return;
  }
  const groups = inOrder(record.groups);
  container.replaceChildren(toolbar(container, groups, record), ...groups.map((group, n) => section(group, n, context)));
  applyView(container);
}

/** Move to the next (1) or previous (-1) group. */
export function moveGroup(container, step) {
  const all = $$(".group", container);
  const edge = (document.querySelector("[data-head]")?.getBoundingClientRect().bottom ?? 0) + 60;
  const tops = all.map((group) => group.getBoundingClientRect().top);
  const target = step > 0 ? tops.findIndex((top) => top > edge) : tops.findLastIndex((top) => top < edge - 60);
  if (target >= 0) {
    all[target].scrollIntoView({ block: "start" });
    all[target].querySelector("h2").focus({ preventScroll: true });
  }
}

function inOrder(groups) {
  const intervals = groups.filter((group) => group.kind !== "top").sort((a, b) => (b.high ?? 0) - (a.high ?? 0));
  return [...groups.filter((group) => group.kind === "top"), ...intervals].filter((group) => group.examples.length);
}

function section(group, n, context) {
  const facts =
    group.kind === "top"
      ? [`${count(group.examples.length)} strongest, one per context`]
      : [group.share === undefined ? null : `${percent(group.share)} of the active tokens`, group.n === undefined ? null : `n = ${count(group.n)}`];
  return h("section", { class: "group", id: `group-${n}`, "aria-labelledby": `group-title-${n}` },
    h("h2", { id: `group-title-${n}`, tabindex: "-1" }, term(group.kind === "top" ? "top-examples" : "interval", nameOf(group)), h("small", {}, facts.filter(Boolean).join(" · "))),
    h("ol", { class: "list" }, strongestFirst(group.examples).map((example) => exampleRow(example, context))));
}

/** The examples of an interval are a random choice; in order they are quicker to read. */
function strongestFirst(examples) {
  const peakOf = (example) => Math.abs(example.acts.find(([offset]) => offset === example.peak)?.[1] ?? 0);
  return [...examples].sort((a, b) => peakOf(b) - peakOf(a));
}

function nameOf(group) {
  return group.kind === "top" ? "Top activations" : `Interval ${significant(group.low)} to ${significant(group.high)}`;
}

/** As few digits as tell the ends of an interval apart. */
function shortName(group) {
  const digits = [2, 3, 4].find((n) => significant(group.low, n) !== significant(group.high, n)) ?? 4;
  return `${significant(group.low, digits)}–${significant(group.high, digits)}`;
}

function toolbar(container, groups, record) {
  const choice = (name, value, text) => h("button", { type: "button", class: "choice", "data-view-name": name, "data-view-value": value, onclick: () => choose(container, name, value) }, text);
  const chip = (group, n) => h("a", { href: `#group-${n}`, class: "chip", title: nameOf(group) }, group.kind === "top" ? "top" : shortName(group));
  return h("div", { class: "toolbar" },
    h("nav", { class: "chips", "aria-label": "Groups of examples" }, groups.length > 1 ? groups.map(chip) : null),
    h("span", { class: "scale", role: "img", "aria-label": `Colour from 0 to ${significant(record.max_act)}` }, h("span", {}, "0"), h("span", { class: "ramp" }), h("span", {}, significant(record.max_act))),
    h("span", { class: "choices", role: "group", "aria-label": "Length of examples" }, choice("view", "snippet", "snippet"), choice("view", "full", "full")),
    h("span", { class: "choices", role: "group", "aria-label": "Line breaks" }, choice("lines", "off", "↵"), choice("lines", "on", "line breaks")));
}

function choose(container, name, value) {
  set(name, value);
  // Line breaks show only in full examples.
  if (name === "lines" && value === "on") set("view", "full");
  if (name === "view" && value === "snippet") set("lines", "off");
  applyView(container);
}

function applyView(container) {
  container.dataset.view = get("view", "snippet");
  container.dataset.lines = get("lines", "off");
  for (const button of $$("[data-view-name]", container)) {
    button.setAttribute("aria-pressed", String(container.dataset[button.dataset.viewName] === button.dataset.viewValue));
  }
}
