// The panels beside the examples: what the numbers say about a feature.

import { h } from "./dom.js";
import { count, percent, signed, significant } from "./format.js";
import { activationPanel, logitChart } from "./histogram.js";
import { hookChart } from "./hook-chart.js";
import { featureUrl, saeBySlug } from "./site.js";
import { absent, isDead, labelled, term } from "./states.js";
import { get, set } from "./store.js";
import { inList } from "./tokens.js";

/** Fill the rail. On a narrow screen it shows its first panels, and the rest when asked to. */
export function showRail(rail, record, context) {
  const more = h("button", { type: "button", class: "button unfold", onclick: () => unfold(true) }, "All statistics");
  const unfold = (open) => {
    set("rail", open);
    rail.classList.toggle("unfolded", open);
  };
  unfold(get("rail", false));
  rail.replaceChildren(...panels(record, context), more);
}

function panels(record, context) {
  const { vocabulary } = context;
  return [
    isDead(record) ? null : activationPanel(record),
    decoderPanel(record.decoder_norms, context.slug),
    logitsPanel(record.logits, vocabulary),
    isDead(record) ? null : topTokensPanel(record.top_tokens, vocabulary),
    relatedPanel("neighbours", "Nearest by decoder", record.neighbours, context, ([, cosine]) => [significant(cosine), cosine, "cosine"]),
    isDead(record)
      ? null
      : relatedPanel("coactive", "Co-active", record.coactive, context, ([, phi, n]) => [significant(phi), phi, `phi; both active on ${count(n)} tokens`]),
  ].filter(Boolean);
}

function panel(name, title, ...content) {
  return h("section", { class: `panel ${name}` }, h("h2", {}, title), ...content);
}

function bar(share) {
  return String(Math.min(1, Math.max(0, share)));
}

function tokenText(vocabulary, token) {
  return h("code", { title: `token ${token}` }, inList(vocabulary.text(token)));
}

function logitsPanel(logits, vocabulary) {
  const note = logits?.normed ? h("small", {}, " normed") : null;
  if (!logits) return panel("logits", term("logits", "Effect on the next token"), absent());
  const largest = Math.max(...[...logits.top, ...logits.bottom].map(([, value]) => Math.abs(value)), 1e-12);
  const column = (name, pairs) =>
    h("div", { class: name },
      h("h3", {}, name),
      h("ol", { class: "bars" }, pairs.map(([token, value]) =>
        h("li", { "--filled": bar(Math.abs(value) / largest) }, tokenText(vocabulary, token), h("span", { class: "value", title: String(value) }, signed(value))))));
  return panel("logits", [term("logits", "Effect on the next token"), note],
    h("div", { class: "pair" }, column("promoted", logits.top), column("suppressed", logits.bottom)),
    logits.histogram ? logitChart(logits.histogram) : null);
}

function decoderPanel(norms, slug) {
  const hooks = saeBySlug(slug)?.decoder_hooks ?? [];
  if (!norms || norms.length !== hooks.length) return null;
  return panel("decoder-norms", [term("decoder-norms", "Decoder by hook"), h("small", {}, " norm · share")], hookChart(norms, hooks));
}

function topTokensPanel(tokens, vocabulary) {
  const title = [term("top-tokens", "Active on"), tokens?.length ? h("small", {}, " share of activation mass · times") : null];
  if (!tokens) return panel("top-tokens", title, absent());
  return panel("top-tokens", title,
    h("ol", { class: "bars activation" }, tokens.map(([token, n, share]) =>
      h("li", { "--filled": bar(share) }, tokenText(vocabulary, token), h("span", { class: "value" }, percent(share)), h("span", { class: "value times" }, count(n))))));
}

function relatedPanel(name, text, pairs, { slug, labels }, valueOf) {
  const title = [term(name, text), h("small", {}, name === "neighbours" ? " cosine" : " phi")];
  if (!pairs) return panel(name, title, absent());
  if (!pairs.length) return panel(name, title, absent("None found."));
  return panel(name, title,
    h("ol", { class: "bars related" }, pairs.map((pair) => {
      const [shown, filled, about] = valueOf(pair);
      const label = labels[pair[0]];
      return h("li", { "--filled": bar(filled) },
        h("a", { href: featureUrl(slug, pair[0]) }, h("span", { class: "id" }, String(pair[0])), " ", label ? labelled(label) : h("span", { class: "absent" }, "no label")),
        h("span", { class: "value", title: `${about}: ${pair[1]}` }, shown));
    })));
}
