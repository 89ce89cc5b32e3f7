// The population of one SAE: its table with filters, a jump, a random feature.

import { $ } from "./dom.js";
import { count } from "./format.js";
import { table, vocabulary } from "./data.js";
import { FeatureTable } from "./feature-table.js";
import { chosenRows, fromQuery, NAMES, toQuery } from "./filters.js";
import { bindKeys } from "./keyboard.js";
import { errorPanel } from "./states.js";
import { index } from "./rank.js";
import { startSearch } from "./search.js";
import { startShell } from "./shell.js";
import { currentSae, featureUrl } from "./site.js";
import { Vocabulary } from "./tokens.js";

const DESCENDING_FIRST = new Set(["density", "max_act", "precision", "recall"]);
const form = $("[data-filters]");
const jump = $("[data-go]");
const container = $("[data-table]");

startShell();
startSearch([currentSae], (link) => location.assign(link.href));
start();

async function start() {
  let columns;
  let entries;
  try {
    [columns, entries] = await Promise.all([table(currentSae), vocabulary(currentSae)]);
  } catch (error) {
    container.replaceChildren(errorPanel(error, start));
    return;
  }
  const texts = new Vocabulary(entries, columns.strings);
  const indexed = index(columns, texts);
  const choice = fromQuery(location.search);
  const list = new FeatureTable(container, currentSae, indexed, texts, sortBy);

  for (const name of NAMES) if (form.elements[name]) form.elements[name].value = choice[name];
  form.hidden = false;
  jump.hidden = false;
  update();

  function update() {
    const rows = chosenRows(indexed, choice, currentSae.slug);
    list.show(rows, choice.sort);
    const all = columns.id.length;
    $(".found", form).textContent = rows.length === all ? `${count(all)} features` : `${count(rows.length)} of ${count(all)} features`;
    history.replaceState(null, "", location.pathname + toQuery(choice) + location.hash);
  }

  function sortBy(name) {
    const orders = DESCENDING_FIRST.has(name) ? [`-${name}`, name, ""] : [name, `-${name}`, ""];
    choice.sort = orders[(orders.indexOf(choice.sort) + 1) % 3];
    update();
  }

  function random() {
    const alive = columns.id.filter((_, row) => columns.density[row] > 0);
    const from = alive.length ? alive : columns.id;
    location.assign(featureUrl(currentSae.slug, from[Math.floor(Math.random() * from.length)]));
  }

  form.addEventListener("input", (event) => {
    if (!(event.target.name in choice)) return;
    choice[event.target.name] = event.target.value;
    update();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  jump.addEventListener("submit", (event) => {
    event.preventDefault();
    const id = jump.elements.id.value.replace("#", "").trim();
    if (/^\d+$/.test(id)) location.assign(featureUrl(currentSae.slug, Number(id)));
  });
  $('[data-action="random"]', jump).addEventListener("click", random);
  bindKeys({ r: random, g: () => jump.elements.id.focus() });
}
