// Honest words for what is not there.

import { h } from "./dom.js";
import { count } from "./format.js";
import { definitionUrl } from "./site.js";
import { inList } from "./tokens.js";

const DEAD_FROM = 1_000_000;
const FEW = 10;

/** A label's text; what it quotes in backticks is code, with the spaces at its ends shown. */
export function labelled(text) {
  return text.split(/(`[^`]+`)/).map((part) => (part.startsWith("`") && part.length > 2 ? h("code", {}, inList(part.slice(1, -1))) : part));
}

/** What went wrong with a file, and a way to try again. */
export function errorPanel(error, retry) {
  return h(
    "div",
    { class: "panel error", role: "alert" },
    h("h2", {}, error.missing ? "Not on this site" : "The data could not be read"),
    h("p", {}, error.message),
    h("p", {}, location.protocol === "file:" ? "Browsers read no data from file: addresses. Serve the folder: sitegen serve, or python -m http.server." : ""),
    retry ? h("button", { type: "button", class: "button", onclick: retry }, "Try again") : null,
  );
}

export function term(id, text) {
  return h("a", { class: "term", href: definitionUrl(id) }, text);
}

/** A panel's text where a site holds less. */
export function absent(what = "Not computed for this site.") {
  return h("p", { class: "absent" }, what);
}

/** What to say where a label would be, if there is none. */
export function noLabel(record) {
  if (record.dead || record.density === 0) return deadText(record);
  if (record.n_active !== undefined && record.n_active < FEW) return `Too few activations to describe (n = ${count(record.n_active)})`;
  return "No simple pattern found";
}

export function deadText(record) {
  if (!record.dead) return "Not active on this corpus";
  return record.dead.n_tokens >= DEAD_FROM ? `Dead: not active on ${count(record.dead.n_tokens)} tokens` : `Not seen in ${count(record.dead.n_tokens)} tokens`;
}

export function isDead(record) {
  return record.dead !== undefined || record.density === 0;
}
