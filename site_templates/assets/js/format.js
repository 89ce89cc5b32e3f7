// Numbers as pages show them: three significant digits. sitegen/write/numbers.py does the same.

const MINUS = "\u2212";
export const ABSENT = "–";

export function significant(value, digits = 3) {
  if (value === null || value === undefined) return ABSENT;
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size >= 10 ** digits - 0.5) text = Math.round(value).toLocaleString("en-US");
  else if (size < 1e-4) text = value.toExponential(digits - 1).replace("e+", "e");
  else text = value.toPrecision(digits);
  return text.replaceAll("-", MINUS);
}

export function percent(value) {
  return value === null || value === undefined ? ABSENT : `${significant(100 * value)}\u202f%`;
}

export function count(value) {
  return value === null || value === undefined ? ABSENT : value.toLocaleString("en-US");
}

/** All digits that are stored, for pop-ups. */
export function exact(value) {
  return String(value).replaceAll("-", MINUS);
}

export function signed(value) {
  return value > 0 ? `+${significant(value)}` : significant(value);
}
