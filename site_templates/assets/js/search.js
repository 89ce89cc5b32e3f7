// The search box: labels of one SAE, or of all. The tables it searches are fetched when it is first focused.

import { $, $$, h } from "./dom.js";
import { significant } from "./format.js";
import { table, vocabulary } from "./data.js";
import { index, search } from "./rank.js";
import { featureUrl } from "./site.js";
import { labelled } from "./states.js";
import { inList, Vocabulary } from "./tokens.js";

const SHOWN = 30;

/** Start the box of this page for some SAEs; `follow(link)` opens what was chosen. */
export function startSearch(saes, follow) {
  const box = $("[data-search]");
  const input = $("#search");
  const list = $("#search-results");
  let loading = null;
  let turn = 0;

  const indexes = () => (loading ??= Promise.all(saes.map(indexOf)).catch((error) => {
    loading = null;
    throw error;
  }));

  async function update() {
    const mine = ++turn;
    const query = input.value;
    if (!query.trim()) return show([]);
    try {
      const found = await indexes();
      if (mine === turn) show(options(found, query, saes.length > 1));
    } catch (error) {
      if (mine === turn) show([h("p", { class: "none" }, `Search is not available: ${error.message}`)]);
    }
  }

  function show(children) {
    list.replaceChildren(...children);
    list.hidden = children.length === 0;
    input.setAttribute("aria-expanded", String(!list.hidden));
    choose(null);
  }

  function choose(option) {
    for (const other of $$('[aria-selected="true"]', list)) other.setAttribute("aria-selected", "false");
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) input.setAttribute("aria-activedescendant", option.id);
    else input.removeAttribute("aria-activedescendant");
  }

  function move(step) {
    const all = $$('[role="option"]', list);
    if (!all.length) return;
    const at = all.findIndex((option) => option.getAttribute("aria-selected") === "true");
    choose(all[(at + step + (at < 0 && step < 0 ? 1 : 0) + all.length) % all.length]);
  }

  function open() {
    const option = $('[aria-selected="true"]', list) ?? $('[role="option"]', list);
    if (!option) return;
    close();
    follow(option);
  }

  function close() {
    turn++;
    show([]);
  }

  const keys = { ArrowDown: () => move(1), ArrowUp: () => move(-1), Enter: open, Escape: () => (list.hidden ? input.blur() : close()) };
  input.addEventListener("focus", () => {
    indexes().catch(() => {});
    update();
  });
  input.addEventListener("input", update);
  input.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  list.addEventListener("click", () => setTimeout(close));
  document.addEventListener("pointerdown", (event) => box.contains(event.target) || close());
  box.addEventListener("focusout", (event) => box.contains(event.relatedTarget) || close());
  box.hidden = false;
}

async function indexOf(sae) {
  const [columns, entries] = await Promise.all([table(sae), vocabulary(sae)]);
  const texts = new Vocabulary(entries, columns.strings);
  return { sae, texts, ...index(columns, texts) };
}

function options(indexes, query, named) {
  const share = Math.ceil(SHOWN / indexes.length);
  const found = indexes.flatMap((one) => search(one, query, share).map((row) => [one, row]));
  if (!found.length) return [h("p", { class: "none" }, "No label matches. Labels are automatic and short: try a single word or a token.")];
  return found.map(([{ sae, table, texts }, row], n) => {
    const precision = table.precision[row];
    return h(
      "a",
      { role: "option", id: `found-${n}`, "aria-selected": "false", tabindex: "-1", href: featureUrl(sae.slug, table.id[row]) },
      h("span", { class: "id" }, String(table.id[row])),
      h("span", { class: "label" }, table.label[row] ? labelled(table.label[row]) : unlabelled(table.top_token[row], texts)),
      h("span", { class: "where" }, named ? sae.name : precision === null ? "" : `precision ${significant(precision, 2)}`),
    );
  });
}

/** A feature that was found by the token it is most active on. */
function unlabelled(token, texts) {
  return [h("span", { class: "absent" }, "no label"), token === null ? "" : ", active on ", token === null ? "" : h("code", {}, inList(texts.text(token)))];
}
