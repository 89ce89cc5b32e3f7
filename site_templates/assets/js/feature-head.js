// The head of a feature: what it is called, whether to trust that, and its plain numbers.

import { $, announce, h } from "./dom.js";
import { count, percent, significant } from "./format.js";
import { featureUrl } from "./site.js";
import { isStarred, toggleStar } from "./stars.js";
import { isDead, labelled, noLabel, term } from "./states.js";

/** Fill the head. `record` may be null while a feature is not there yet. */
export function showHead(head, record, id, slug) {
  $("[name=f]", head).value = String(id);
  showStar(head, slug, id);
  if (!record) return;
  const { label } = record;
  $("[data-title]", head).replaceChildren(
    h("h1", { class: label ? null : "absent" }, label ? labelled(label.text) : noLabel(record)),
    h("p", { class: "trust" }, ...(label ? trust(label) : []), ...plainFacts(record)),
  );
}

function trust(label) {
  const measured = (name, value) => (value === undefined ? [] : [h("span", { class: "fact" }, term(name, name), " ", h("b", { title: String(value) }, significant(value, 2)))]);
  const source = label.source === "rule" ? ["automatic", label.rule ? `: ${label.rule}` : ""] : [`by ${label.source}`];
  return [
    h("span", { class: "badge", title: "Found by rule, without a language model" }, term("label", source.join(""))),
    ...measured("precision", label.precision),
    ...measured("recall", label.recall),
    label.n === undefined ? null : h("span", { class: "fact" }, `n = ${count(label.n)}`),
  ];
}

function plainFacts(record) {
  if (isDead(record)) return [];
  const fact = (name, text, value, title) => (value === null ? null : h("span", { class: "fact" }, term(name, text), " ", h("b", { title }, value)));
  return [
    fact("density", "density", percent(record.density), String(record.density)),
    fact("n-active", "active on", record.n_active === undefined ? null : `${count(record.n_active)} tokens`),
    fact("max-act", "max", record.max_act === undefined ? null : significant(record.max_act), String(record.max_act)),
    fact("mean-act", "mean", record.mean_act === undefined ? null : significant(record.mean_act), String(record.mean_act)),
  ];
}

function showStar(head, slug, id) {
  const on = isStarred(slug, id);
  const button = $('[data-action="star"]', head);
  button.textContent = on ? "★" : "☆";
  button.setAttribute("aria-pressed", String(on));
}

export function star(head, slug, id) {
  announce(toggleStar(slug, id) ? `Feature ${id} starred` : `Feature ${id} no longer starred`);
  showStar(head, slug, id);
}

export async function copyLink(button, slug, id) {
  const before = "Copy link";
  try {
    await navigator.clipboard.writeText(featureUrl(slug, id));
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  announce(button.textContent === "Copied" ? "Link copied" : "Copying is not allowed here");
  setTimeout(() => (button.textContent = before), 1500);
}
