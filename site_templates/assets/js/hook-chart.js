// How strongly a feature writes at each hook of a crosscoder: a column a hook.

import { svg } from "./dom.js";
import { percent, significant } from "./format.js";

const WIDTH = 320;
const HEIGHT = 64;
const TOP = 14;

/** Columns as high as the norms, with the hook below and, where there is room, norm and share on top of each. */
export function hookChart(norms, hooks) {
  const most = Math.max(...norms, 1e-12);
  const sum = Math.max(norms.reduce((a, b) => a + b, 0), 1e-12);
  const step = WIDTH / norms.length;
  const width = Math.min(step - 2, 56);
  const names = shortNames(hooks);
  const every = Math.ceil(Math.max(...names.map((name) => name.length)) * 6.5 / step);
  const columns = norms.flatMap((norm, i) => {
    const size = Math.max(1, (HEIGHT * norm) / most);
    const middle = (i + 0.5) * step;
    const about = svg("title", {}, `${hooks[i]}: norm ${significant(norm)}, ${percent(norm / sum)} of the sum`);
    const texts = [];
    if (step >= 76) texts.push(svg("text", { class: "tick", x: middle, y: TOP + HEIGHT - size - 4, "text-anchor": "middle" }, `${significant(norm, 2)} · ${percent(norm / sum)}`));
    if (i % every === 0) texts.push(svg("text", { class: "tick", x: middle, y: TOP + HEIGHT + 13, "text-anchor": "middle" }, names[i]));
    return [svg("rect", { class: "bar", x: middle - width / 2, y: TOP + HEIGHT - size, width, height: size }, about), ...texts];
  });
  const label = `Decoder norm by hook: ${hooks.map((hook, i) => `${hook} ${significant(norms[i])}`).join(", ")}`;
  const axis = svg("line", { class: "axis", x1: 0, x2: WIDTH, y1: TOP + HEIGHT, y2: TOP + HEIGHT });
  return svg("svg", { class: "histogram", viewBox: `0 0 ${WIDTH} ${TOP + HEIGHT + 18}`, role: "img", "aria-label": label }, ...columns, axis);
}

/** `layer 3` where only layers differ, else `3 mlp_out`. */
function shortNames(hooks) {
  const parts = hooks.map((hook) => hook.match(/^blocks\.(\d+)\.(?:hook_)?(.+)$/));
  if (parts.some((part) => !part)) return hooks.map((_, i) => String(i + 1));
  const same = parts.every((part) => part[2] === parts[0][2]);
  if (!same) return parts.map((part) => `${part[1]} ${part[2].replace(/hook_/g, "")}`);
  return parts.map((part) => (hooks.length <= 5 ? `layer ${part[1]}` : part[1]));
}
