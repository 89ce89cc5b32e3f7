// Histograms in SVG, with a line at the activation of the token being looked at.

import { h, svg } from "./dom.js";
import { count, significant } from "./format.js";
import { get, set } from "./store.js";
import { absent, term } from "./states.js";

const WIDTH = 320;
const HEIGHT = 84;
let marker = null;

/** Move the line in the activation histogram to a value; null takes it away. */
export function markActivation(value) {
  marker?.(value);
}

/** The panel of a feature's activations, linear or logarithmic. */
export function activationPanel(record) {
  marker = null;
  const linear = record.histogram;
  const log = record.log_histogram;
  const buttons = ["linear", "log"].map((name) => h("button", { type: "button", class: "choice", onclick: () => draw(name) }, name));
  const chart = h("div");
  const title = h("h2", {}, term("histogram", "Activations"), h("span", { class: "choices", role: "group", "aria-label": "Scale" }, linear && log ? buttons : null));
  const panel = h("section", { class: "panel activations" }, title, linear || log ? chart : absent());

  function draw(scale) {
    if (linear && log) set("scale", scale);
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === scale)));
    chart.replaceChildren(scale === "log" ? logChart(log, record.max_act) : linearChart(linear));
  }
  if (linear || log) draw(linear && log ? get("scale", "linear") : linear ? "linear" : "log");
  return panel;
}

function linearChart({ low, high, counts }) {
  const step = (high - low) / counts.length;
  const place = (value) => (high > low ? (Math.abs(value) - low) / (high - low) : 0.5);
  const bars = counts.map((n, i) => ({ n, low: low + i * step, high: low + (i + 1) * step, class: "bar" }));
  return chartOf(bars, { linear: true, place, ticks: [[0, low, "start"], [0.5, (low + high) / 2, "middle"], [1, high, "end"]], name: "Activation histogram" });
}

function logChart({ low_decade, per_decade, counts }, max) {
  const decades = counts.length / per_decade;
  const place = (value) => (Math.log10(Math.abs(value)) - low_decade) / decades;
  const bars = counts.map((n, i) => ({ n, low: 10 ** (low_decade + i / per_decade), high: 10 ** (low_decade + (i + 1) / per_decade), class: "bar" }));
  const ticks = Array.from({ length: Math.floor(decades) + 1 }, (_, i) => [i / decades, 10 ** (low_decade + i), i === 0 ? "start" : i === decades ? "end" : "middle"]);
  return chartOf(bars, { linear: false, place, ticks, name: `Activation histogram, logarithmic, maximum ${significant(max)}` });
}

/** The effect on the logits of the whole vocabulary: orange to the right of zero, blue to the left. */
export function logitChart({ low, high, counts }) {
  const step = (high - low) / counts.length;
  const bars = counts.map((n, i) => ({ n, low: low + i * step, high: low + (i + 1) * step, class: low + (i + 0.5) * step < 0 ? "bar suppressed" : "bar promoted" }));
  const ticks = [[0, low, "start"], [1, high, "end"]];
  if (low < 0 && high > 0) ticks.push([-low / (high - low), 0, "middle"]);
  return chartOf(bars, { linear: true, ticks, name: "Logit histogram", what: "vocabulary tokens", height: 48 });
}

function chartOf(bars, { linear, place, ticks, name, what = "tokens", height = HEIGHT }) {
  const top = Math.max(1, ...bars.map((bar) => bar.n));
  const size = (n) => (n === 0 ? 0 : Math.max(1, height * (linear ? n / top : Math.log10(1 + n) / Math.log10(1 + top))));
  const step = WIDTH / bars.length;
  const rects = bars.filter((bar) => bar.n).map((bar) => {
    const title = svg("title", {}, `${significant(bar.low)} to ${significant(bar.high)}: ${count(bar.n)} ${what}`);
    return svg("rect", { class: bar.class, x: bars.indexOf(bar) * step + 0.5, y: height - size(bar.n), width: Math.max(0.5, step - 1), height: size(bar.n) }, title);
  });
  const line = svg("line", { class: "marker", y1: 0, y2: height, x1: 0, x2: 0, visibility: "hidden" });
  const texts = ticks.map(([at, value, anchor]) => svg("text", { class: "tick", x: at * WIDTH, y: height + 13, "text-anchor": anchor }, significant(value, 2)));
  const peak = svg("text", { class: "tick", x: WIDTH, y: 9, "text-anchor": "end" }, `${count(top)} ${what}`);
  const label = `${name}: ${significant(bars[0].low)} to ${significant(bars.at(-1).high)}, highest bin ${count(top)} ${what}`;
  if (place) {
    marker = (value) => {
      line.setAttribute("visibility", value ? "visible" : "hidden");
      if (value) for (const end of ["x1", "x2"]) line.setAttribute(end, String(WIDTH * Math.min(1, Math.max(0, place(value)))));
    };
  }
  return svg("svg", { class: "histogram", viewBox: `0 0 ${WIDTH} ${height + 16}`, role: "img", "aria-label": label }, ...rects, svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: height, y2: height }), line, ...texts, peak);
}
