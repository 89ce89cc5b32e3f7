// Sorts the tables of contrasts and evaluations by a click on a heading: first the way one reads them, then the other way.

const ASCENDING_FIRST = new Set(["feature", "label", "p", "q"]);

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const headings = [...table.querySelectorAll("th")];
  table.tHead.addEventListener("click", (event) => {
    const heading = event.target.closest("th");
    if (heading && event.target.closest("button")) sortBy(table, headings, heading);
  });
}

function sortBy(table, headings, heading) {
  const column = headings.indexOf(heading);
  const first = heading.dataset.first ?? (ASCENDING_FIRST.has(heading.dataset.column) ? "ascending" : "descending");
  const other = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of headings) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].map((row, place) => ({ row, place, key: key(row.cells[column]) }));
  rows.sort((a, b) => sign * compare(a.key, b.key) || a.place - b.place);
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

function key(cell) {
  return cell.dataset.value === undefined ? cell.textContent : parse(cell.dataset.value);
}

function parse(text) {
  return text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
}

function compare(a, b) {
  return typeof a === "string" ? a.localeCompare(b) : a < b ? -1 : a > b ? 1 : 0;
}
