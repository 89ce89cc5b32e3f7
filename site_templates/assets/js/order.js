// Which feature comes next. A site that holds every feature counts; one that holds a few looks in its table.

import { table } from "./data.js";

function isComplete(sae) {
  return sae.n_features === sae.d_sae;
}

export async function first(sae) {
  return isComplete(sae) ? 0 : (await table(sae)).id[0];
}

/** The next (1) or previous (-1) feature, from the last to the first and back. */
export async function following(sae, id, step) {
  if (isComplete(sae)) return (id + step + sae.d_sae) % sae.d_sae;
  const ids = (await table(sae)).id;
  const after = ids.findIndex((other) => other > id);
  const before = ids.findLastIndex((other) => other < id);
  return step > 0 ? ids[after < 0 ? 0 : after] : ids[before < 0 ? ids.length - 1 : before];
}

/** A feature that is active, chosen evenly. */
export async function random(sae) {
  const { id, density } = await table(sae);
  const alive = id.filter((_, row) => density[row] > 0);
  const from = alive.length ? alive : id;
  return from[Math.floor(Math.random() * from.length)];
}
