// Which features a query means, best first.

/** Lower-case labels and token texts of a feature table, made once per table. */
export function index(table, vocabulary) {
  return {
    table,
    labels: table.label.map((label) => label.toLowerCase().replaceAll("`", "").trim()),
    tokens: table.top_token.map((token) => (token === null ? "" : vocabulary.text(token).trim().toLowerCase())),
    rows: new Map(table.id.map((id, row) => [id, row])),
  };
}

/** Rows whose label or strongest token holds every word of the query, best first; a number also means an id. */
export function search({ table, labels, tokens, rows }, query, limit = Infinity) {
  const wanted = query.toLowerCase().replaceAll("`", "").trim();
  if (!wanted) return [];
  const words = wanted.split(/\s+/);
  const found = [];
  for (let row = 0; row < labels.length; row++) {
    const score = scoreOf(labels[row], tokens[row], wanted, words);
    if (score > 0) found.push([row, score]);
  }
  const precision = (row) => table.precision[row] ?? 0;
  found.sort(([a, scoreA], [b, scoreB]) => scoreB - scoreA || precision(b) - precision(a) || table.id[a] - table.id[b]);
  const best = found.map(([row]) => row);
  const meant = /^#?\d+$/.test(wanted) ? rows.get(Number(wanted.replace("#", ""))) : undefined;
  if (meant !== undefined) best.splice(0, best.length, meant, ...best.filter((row) => row !== meant));
  return best.slice(0, limit);
}

function scoreOf(label, token, wanted, words) {
  if (label === wanted || token === wanted) return 100 + (label === wanted);
  let score = label.startsWith(wanted) ? 20 : 0;
  for (const word of words) {
    const at = label.indexOf(word);
    if (at >= 0) score += startsWord(label, at) || startsWord(label, label.lastIndexOf(word)) ? 10 : 4;
    else if (token && (token === word || token.includes(word))) score += token === word ? 8 : 2;
    else return 0;
  }
  return score;
}

function startsWord(label, at) {
  return at === 0 || !/[\p{L}\p{N}]/u.test(label[at - 1]);
}
