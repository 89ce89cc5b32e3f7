// A table of any number of rows: only those in view are in the document.

import { $, $$, h } from "./dom.js";
import { percent, significant } from "./format.js";
import { definitionUrl, featureUrl } from "./site.js";
import { labelled } from "./states.js";
import { inList } from "./tokens.js";

const ROW = 28;
const SPARE = 12;
const COLUMNS = [
  ["id", "id", null],
  ["label", "label", "label"],
  ["top_token", "active on", "top-tokens"],
  ["density", "density", "density"],
  ["max_act", "max", "max-act"],
  ["precision", "precision", "precision"],
  ["recall", "recall", "recall"],
];

export class FeatureTable {
  /** `onsort(column)` is called for a click on a heading. */
  constructor(container, sae, indexed, vocabulary, onsort) {
    Object.assign(this, { sae, indexed, vocabulary, rows: [], first: -1, last: -1 });
    const lowest = indexed.table.density.filter((density) => density > 0).reduce((a, b) => Math.min(a, b), 1);
    this.decades = Math.max(1, -Math.log10(lowest));
    this.head = h("tr", { "aria-rowindex": "1" }, COLUMNS.map((column) => heading(column, onsort)));
    this.body = h("tbody");
    this.before = h("tbody", { class: "spacer", "aria-hidden": "true" }, h("tr", {}, h("td")));
    this.after = this.before.cloneNode(true);
    this.table = h("table", { "aria-label": `Features of ${sae.name}` }, h("thead", {}, this.head), this.before, this.body, this.after);
    this.view = h("div", { class: "table-view", tabindex: "0", role: "region", "aria-label": "Table of features" }, this.table);
    this.view.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.view);
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && !event.target.closest("a") && !getSelection().toString()) $("a", row).click();
    });
    container.replaceChildren(this.view);
  }

  show(rows, sort) {
    this.rows = rows;
    this.first = -1;
    this.table.setAttribute("aria-rowcount", String(rows.length + 1));
    for (const cell of $$("th", this.head)) {
      const name = cell.dataset.column;
      cell.setAttribute("aria-sort", sort === name ? "ascending" : sort === `-${name}` ? "descending" : "none");
    }
    this.view.scrollTop = 0;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((this.view.scrollTop + this.view.clientHeight) / ROW) + SPARE);
    if (first === this.first && last === this.last) return;
    Object.assign(this, { first, last });
    this.before.style.setProperty("--height", `${first * ROW}px`);
    this.after.style.setProperty("--height", `${(this.rows.length - last) * ROW}px`);
    this.body.replaceChildren(...this.rows.slice(first, last).map((row, n) => this.row(row, first + n)));
  }

  row(row, at) {
    const { table } = this.indexed;
    const id = table.id[row];
    const token = table.top_token[row];
    const dead = table.density[row] === 0;
    const filled = dead ? 0 : Math.max(0.02, 1 + Math.log10(table.density[row]) / this.decades);
    return h(
      "tr",
      { "aria-rowindex": String(at + 2), class: dead ? "dead" : null },
      h("td", { class: "id" }, h("a", { href: featureUrl(this.sae.slug, id) }, String(id))),
      h("td", { class: "label" }, table.label[row] ? labelled(table.label[row]) : h("span", { class: "absent" }, dead ? "not active" : "no simple pattern")),
      h("td", { class: "token" }, token === null ? "" : h("code", {}, inList(this.vocabulary.text(token)))),
      h("td", { class: "number density", "--filled": String(filled) }, percent(table.density[row])),
      h("td", { class: "number" }, significant(table.max_act[row] || null)),
      h("td", { class: "number" }, significant(table.precision[row], 2)),
      h("td", { class: "number" }, significant(table.recall[row], 2)),
    );
  }
}

function heading([name, text, term], onsort) {
  const button = h("button", { type: "button", onclick: () => onsort(name) }, text);
  const link = term ? h("a", { class: "term about", href: definitionUrl(term), "aria-label": `Definition of ${text}` }, "?") : null;
  return h("th", { scope: "col", "data-column": name, class: name === "label" || name === "top_token" ? null : "number", "aria-sort": "none" }, button, link);
}
