// Exact values of a token, on hover, focus or tap.

import { $$, h } from "./dom.js";
import { count, exact, percent } from "./format.js";
import { shownBy } from "./example.js";
import { markActivation } from "./histogram.js";
import { inList } from "./tokens.js";

const DELAY = 40;

/** Watch a container of examples; `context()` gives the vocabulary, documents and maximum of what is shown. */
export function startPopup(container, context) {
  const popup = h("div", { id: "token-popup", class: "popup", role: "tooltip", hidden: true });
  container.after(popup);
  let waiting = 0;
  let pinned = null;

  function open(token) {
    clearTimeout(waiting);
    const { example, unit } = shownBy(token);
    popup.replaceChildren(...content(example, unit, context()));
    popup.hidden = false;
    token.setAttribute("aria-describedby", popup.id);
    place(popup, token);
    markActivation(unit.act);
  }

  function close() {
    clearTimeout(waiting);
    pinned = null;
    popup.hidden = true;
    for (const token of $$("[aria-describedby]", container)) token.removeAttribute("aria-describedby");
    markActivation(null);
  }

  const tokenOf = (event) => (event.target instanceof Element ? event.target.closest(".t") : null);
  container.addEventListener("pointerover", (event) => {
    const token = tokenOf(event);
    if (event.pointerType === "touch" || pinned) return;
    clearTimeout(waiting);
    waiting = setTimeout(token ? () => open(token) : close, DELAY);
  });
  container.addEventListener("pointerleave", () => pinned || close());
  container.addEventListener("focusin", (event) => (tokenOf(event) ? open(tokenOf(event)) : close()));
  container.addEventListener("focusout", close);
  document.addEventListener("click", (event) => {
    const token = container.contains(event.target) ? tokenOf(event) : null;
    if (!token || token === pinned) return close();
    open(token);
    pinned = token;
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && close());
  document.addEventListener("scroll", () => popup.hidden || close(), { passive: true });
  container.addEventListener("keydown", (event) => {
    const token = tokenOf(event);
    if (token && (event.key === "ArrowRight" || event.key === "ArrowLeft")) {
      event.preventDefault();
      step(token, event.key === "ArrowRight" ? 1 : -1);
    }
  });
  return close;
}

/** Move the focus to the next active token of the same example. */
function step(token, by) {
  const active = $$(".t.on", token.closest(".example"));
  const next = active[active.indexOf(token) + by];
  if (!next) return;
  token.tabIndex = -1;
  next.tabIndex = 0;
  next.setAttribute("role", "button");
  next.focus();
}

function content(example, unit, { vocabulary, documents, maxAct }) {
  const acts = new Map(example.acts);
  const offsets = Array.from({ length: unit.last - unit.first + 1 }, (_, i) => unit.first + i);
  const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const share = (act) => (maxAct > 0 && act ? ` (${percent(Math.abs(act) / maxAct)} of max)` : "");
  const one = (offset) => {
    const act = acts.get(offset) ?? 0;
    const token = example.tokens[offset];
    return h("dl", {},
      offsets.length > 1 ? fact("part", h("code", {}, inList(vocabulary.text(token)))) : null,
      fact("activation", h("span", { class: "act" }, exact(act) + share(act))),
      fact("token", `${token}`),
      fact("bytes", h("code", {}, vocabulary.hex(token))),
      fact("position", count(example.start + offset).replace("-", "−")));
  };
  const note = offsets.length > 1 ? h("p", { class: "note" }, `one text split over ${offsets.length} tokens`) : null;
  const name = documents[example.document] ?? `document ${example.document}`;
  return [h("p", { class: "token" }, h("code", {}, inList(unit.text))), note, ...offsets.map(one), h("p", { class: "document" }, name)].filter(Boolean);
}

function place(popup, token) {
  const at = token.getClientRects()[0] ?? token.getBoundingClientRect();
  const width = popup.offsetWidth;
  const height = popup.offsetHeight;
  const below = at.bottom + 6 + height < innerHeight || at.top < height + 6;
  popup.style.setProperty("--x", `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8))}px`);
  popup.style.setProperty("--y", `${below ? at.bottom + 6 : at.top - height - 6}px`);
}
