// One example: text with its activations, the peak at a fixed place, the document at the end.

import { announce, h } from "./dom.js";
import { count, significant } from "./format.js";
import { isSpecial, units, visible } from "./tokens.js";

/** Opacity of an activation, on a log scale. */
export function opacity(act, max) {
  const share = max > 0 ? Math.min(1, Math.abs(act) / max) : 0;
  return 0.05 + 0.95 * Math.log10(1 + 9 * share);
}

const shown = new WeakMap();

/** What an element of `exampleRow` shows: `{example, found, unit}`; `unit` only for a token's element. */
export function shownBy(element) {
  const row = element.closest(".example");
  const token = element.closest(".t");
  const { example, found } = shown.get(row);
  return { example, found, unit: token ? found[Number(token.dataset.u)] : null };
}

export function exampleRow(example, context) {
  const found = units(example.tokens, new Map(example.acts), context.vocabulary);
  const peak = found.findIndex((unit) => unit.first <= example.peak && example.peak <= unit.last);
  const spans = found.map((unit, n) => unitSpan(unit, n, n === peak, context.maxAct));
  const value = significant(new Map(example.acts).get(example.peak) ?? 0);
  const name = context.documents[example.document] ?? `document ${example.document}`;
  const toggle = h("button", { type: "button", class: "value", "aria-expanded": "false", "aria-label": `${value}: show the whole example`, onclick: () => expand(row, toggle) }, value);
  const row = h(
    "li",
    { class: "example" },
    toggle,
    h("p", { class: "text" }, h("span", { class: "left" }, h("span", { class: "inner" }, spans.slice(0, peak))), h("span", { class: "right" }, spans.slice(peak))),
    h("div", { class: "about" },
      h("span", { class: "document", title: `${name}, token ${example.start + example.peak}` }, h("bdi", {}, name)),
      h("span", { class: "position" }, `token ${count(example.start + example.peak)}`),
      example.duplicates ? h("span", { class: "duplicates", title: `${example.duplicates} more with the same text` }, `+${example.duplicates}`) : null,
      h("button", { type: "button", class: "copy", onclick: () => copy(found) }, "copy")),
  );
  shown.set(row, { example, found });
  return row;
}

function expand(row, toggle) {
  toggle.setAttribute("aria-expanded", String(row.classList.toggle("open")));
}

function unitSpan(unit, n, isPeak, max) {
  if (unit.act === 0) return h("span", { class: isSpecial(unit.text) ? "t special" : "t", "data-u": n }, lines(unit.text, false));
  const attributes = { class: `t on${isPeak ? " peak" : ""}${unit.act < 0 ? " negative" : ""}`, "data-u": n, "--a": opacity(unit.act, max).toFixed(3) };
  if (isPeak) Object.assign(attributes, { tabindex: "0", role: "button", "aria-label": `${visible(unit.text)}, activation ${significant(unit.act)}` });
  return h("span", attributes, lines(visible(unit.text), true));
}

/** Text with `↵` and a line break, which the style sheet shows or hides, for every line end; long blanks are cut in snippets. */
function lines(text, active) {
  if (!/[\n↵]|  /.test(text)) return [text];
  return text.split(active ? /(\n|↵)/ : /(\n|  +)/).flatMap((part) => {
    if (part === "\n" || (active && part === "↵")) return [h("span", { class: "nl" }, "↵"), h("br")];
    return !active && part.startsWith("  ") ? h("span", { class: "blank" }, part) : part;
  });
}

async function copy(found) {
  try {
    await navigator.clipboard.writeText(found.map((unit) => unit.text).join(""));
    announce("Example copied");
  } catch {
    announce("Copying is not allowed here");
  }
}
