// One feature at a time. The address names it; moving to another one fetches at most one file and reloads nothing.

import { $, announce } from "./dom.js";
import { prefetch, shard, vocabulary } from "./data.js";
import { copyLink, showHead, star } from "./feature-head.js";
import { moveGroup, showExamples } from "./examples.js";
import { bindKeys } from "./keyboard.js";
import { errorPanel, noLabel } from "./states.js";
import { first, following, random } from "./order.js";
import { startPopup } from "./popup.js";
import { showRail } from "./rail.js";
import { startSearch } from "./search.js";
import { startShell } from "./shell.js";
import { currentSae as sae, featureUrl, page } from "./site.js";
import { onSwipe } from "./swipe.js";
import { Vocabulary } from "./tokens.js";

const head = $("[data-head]");
const body = $("[data-feature]");
const state = $("[data-state]");
const examples = $("[data-examples]");
const BURST = 1000;
let current = null;
let context = null;
let turn = 0;
let changed = 0;

startShell();
const closePopup = startPopup(examples, () => context);
startSearch([sae], (link) => go(idOf(link)));
connect();
const asked = idOf(location);
if (asked === null) first(sae).then((id) => show(id, "replace")).catch(showError);
else show(asked);

/** Show a feature; `entry` says how the browser's history learns of it. */
async function show(id, entry = null) {
  const mine = ++turn;
  current = id;
  if (entry) history[`${entry}State`](null, "", featureUrl(sae.slug, id));
  showHead(head, null, id, sae.slug);
  try {
    if (!(id >= 0 && id < sae.d_sae)) throw Object.assign(new Error(`There is no feature ${id}: ids go from 0 to ${sae.d_sae - 1}.`), { missing: true });
    const [file, entries] = await Promise.all([shard(sae, id), vocabulary(sae)]);
    if (mine !== turn) return;
    const record = file.features.find((one) => one.id === id);
    if (!record) throw Object.assign(new Error(`Feature ${id} was not chosen for this site.`), { missing: true });
    render(record, file, entries);
    connectNeighbours(id, mine);
  } catch (error) {
    if (mine === turn) showError(error);
  }
}

function render(record, file, entries) {
  closePopup();
  context = {
    slug: sae.slug,
    vocabulary: new Vocabulary(entries, file.strings),
    documents: file.documents ?? {},
    labels: file.labels ?? {},
    maxAct: record.max_act ?? 0,
  };
  showHead(head, record, record.id, sae.slug);
  showRail($("[data-rail]"), record, context);
  showExamples(examples, record, context);
  state.hidden = true;
  body.hidden = false;
  const label = record.label?.text ?? noLabel(record);
  document.title = `${label} · ${record.id} · ${sae.name} · ${page.title}`;
  announce(`Feature ${record.id}: ${label}`);
  document.body.dataset.shown = String(record.id);
}

function showError(error) {
  closePopup();
  body.hidden = true;
  state.hidden = false;
  state.replaceChildren(errorPanel(error, error.missing ? null : () => show(current)));
  $("[data-title]", head).firstElementChild.textContent = "Feature";
  document.body.dataset.shown = "";
}

/** Point the arrows at the next features, and fetch their shards where they are others. */
async function connectNeighbours(id, mine) {
  for (const [action, step] of [["previous", -1], ["next", 1]]) {
    const other = await following(sae, id, step);
    if (mine !== turn) return;
    $(`[data-action="${action}"]`, head).href = featureUrl(sae.slug, other);
    // A first look fetches what it may need next only at a shard's edge; who has moved once will move again.
    const ahead = id + step * (changed ? sae.shard_size : 1);
    (window.requestIdleCallback ?? setTimeout)(() => mine === turn && prefetch(sae, ahead));
  }
}

/** Features passed through quickly share one entry of the history, so that "back" goes to where the visitor was. */
function go(id) {
  if (id === null || id === current) return;
  const quick = performance.now() - changed < BURST;
  changed = performance.now();
  show(id, quick ? "replace" : "push");
}

async function move(step) {
  go(await following(sae, current, step).catch(() => current));
}

function goRandom() {
  random(sae).then(go).catch(showError);
}

function idOf(address) {
  const text = new URL(address.href).searchParams.get("f") ?? "";
  return /^\d+$/.test(text) ? Number(text) : null;
}

function connect() {
  const actions = {
    star: () => star(head, sae.slug, current),
    "copy-link": (button) => copyLink(button, sae.slug, current),
    random: goRandom,
  };
  head.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]");
    if (button) actions[button.dataset.action](button);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    const plain = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
    if (!link || !plain || new URL(link.href).pathname !== location.pathname || idOf(link) === null || link.hash) return;
    event.preventDefault();
    go(idOf(link));
  });
  $("[data-jump]", head).addEventListener("submit", (event) => {
    event.preventDefault();
    const field = event.target.elements.f;
    if (/^\s*#?\d+\s*$/.test(field.value)) go(Number(field.value.replace("#", "")));
    field.blur();
  });
  addEventListener("popstate", () => idOf(location) !== null && idOf(location) !== current && show(idOf(location)));
  bindKeys({ j: () => move(1), k: () => move(-1), r: goRandom, s: actions.star, g: () => $("[name=f]", head).select(), "[": () => moveGroup(examples, -1), "]": () => moveGroup(examples, 1) });
  onSwipe($("#content"), (direction) => move(direction));
}
