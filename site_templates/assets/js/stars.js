// Starred features, kept in this browser.

import { get, set } from "./store.js";
import { ROOT } from "./site.js";

const KEY = `stars:${ROOT.pathname}`;

export function starred() {
  return get(KEY, []);
}

export function isStarred(slug, id) {
  return starred().includes(`${slug}/${id}`);
}

/** Star or unstar; returns whether the feature is starred now. */
export function toggleStar(slug, id) {
  const name = `${slug}/${id}`;
  const others = starred().filter((other) => other !== name);
  const on = others.length === starred().length;
  set(KEY, on ? [...others, name] : others);
  return on;
}
