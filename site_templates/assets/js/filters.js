// Which rows of a feature table are shown, and in which order. The address holds the choice.

import { search } from "./rank.js";
import { starred } from "./stars.js";

export const NAMES = ["q", "from", "to", "show", "sort"];

/** Read the choice from an address's query. */
export function fromQuery(query) {
  const parameters = new URLSearchParams(query);
  return Object.fromEntries(NAMES.map((name) => [name, parameters.get(name) ?? ""]));
}

export function toQuery(choice) {
  const parameters = new URLSearchParams(NAMES.filter((name) => choice[name]).map((name) => [name, choice[name]]));
  return parameters.size ? `?${parameters}` : "";
}

/** A share as people write it: 0.01, 1e-3 or 0.1%. An empty or senseless text gives `otherwise`. */
export function share(text, otherwise) {
  const value = text.trim().endsWith("%") ? Number(text.trim().slice(0, -1)) / 100 : Number(text);
  return text.trim() && Number.isFinite(value) ? value : otherwise;
}

/** Rows to show, in order. */
export function chosenRows(indexed, choice, slug) {
  const { table } = indexed;
  const low = share(choice.from, 0);
  const high = share(choice.to, Infinity);
  const stars = new Set(choice.show === "starred" ? starred() : []);
  const tests = {
    labelled: (row) => table.label[row] !== "",
    unlabelled: (row) => table.label[row] === "" && table.density[row] > 0,
    alive: (row) => table.density[row] > 0,
    dead: (row) => table.density[row] === 0,
    starred: (row) => stars.has(`${slug}/${table.id[row]}`),
  };
  const test = tests[choice.show] ?? (() => true);
  const candidates = choice.q.trim() ? search(indexed, choice.q) : table.id.map((_, row) => row);
  const rows = candidates.filter((row) => test(row) && table.density[row] >= low && table.density[row] <= high);
  return choice.sort ? sorted(rows, indexed, choice.sort) : rows;
}

/** `column` ascending, `-column` descending; rows without a value come last either way, ties by id. */
function sorted(rows, { table, tokens }, order) {
  const down = order.startsWith("-");
  const name = down ? order.slice(1) : order;
  const column = name === "top_token" ? tokens : table[name];
  if (!Array.isArray(column)) return rows;
  const collator = new Intl.Collator("en", { numeric: true });
  const compare = typeof column.find((value) => value !== null) === "string" ? collator.compare : (a, b) => a - b;
  const absent = (row) => column[row] === null || column[row] === "";
  return rows.sort((a, b) => {
    if (absent(a) || absent(b)) return absent(a) - absent(b) || table.id[a] - table.id[b];
    return (down ? compare(column[b], column[a]) : compare(column[a], column[b])) || table.id[a] - table.id[b];
  });
}
