// Tokens as a reader sees them: characters split over several tokens are joined, white space is made visible.
// sitegen/write/token_text.py does the same in Python.

const VISIBLE = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };

/** Looks up token entries in a vocabulary list, or in the strings that travel with a file. */
export class Vocabulary {
  constructor(entries, strings) {
    this.entries = entries;
    this.strings = strings ?? {};
  }

  entry(token) {
    return (this.entries ? this.entries[token] : this.strings[token]) ?? `⟨${token}⟩`;
  }

  text(token) {
    const entry = this.entry(token);
    return typeof entry === "string" ? entry : escaped(bytesOf(entry));
  }

  /** Bytes as hex pairs: `f0 9f 98 80`. */
  hex(token) {
    return [...bytesOf(this.entry(token))].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  }
}

function bytesOf(entry) {
  if (typeof entry === "string") return new TextEncoder().encode(entry);
  return Uint8Array.from(entry.b.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}

function escaped(bytes) {
  return [...bytes].map((byte) => (byte > 32 && byte < 127 ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, "0")}`)).join("");
}

/**
 * Join the tokens of a window into units `{text, first, last, act}`; every token is in exactly one.
 * `acts` maps offsets to activations; `act` is the one of largest magnitude in the unit.
 */
export function units(tokens, acts, vocabulary) {
  const found = [];
  let pending = [];
  let start = 0;
  const close = (text, first, last) => {
    let act = 0;
    for (let offset = first; offset <= last; offset++) {
      const value = acts.get(offset) ?? 0;
      if (Math.abs(value) > Math.abs(act)) act = value;
    }
    found.push({ text, first, last, act });
  };
  const flush = (last) => {
    close(new TextDecoder().decode(Uint8Array.from(pending)), start, last);
    pending = [];
  };
  tokens.forEach((token, offset) => {
    const entry = vocabulary.entry(token);
    const isText = typeof entry === "string";
    const bytes = isText ? [] : [...bytesOf(entry)];
    if (pending.length && (isText || !decodes([...pending, ...bytes], true))) flush(offset - 1);
    if (isText) return close(entry, offset, offset);
    if (!pending.length) start = offset;
    pending.push(...bytes);
    if (decodes(pending, false) || !decodes(pending, true)) flush(offset);
  });
  if (pending.length) flush(tokens.length - 1);
  return found;
}

/** Are the bytes valid UTF-8? With `partial` the last character need not be finished. */
function decodes(bytes, partial) {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes), { stream: partial });
    return true;
  } catch {
    return false;
  }
}

/** Is this one of the tokens that are no text, such as the one at the beginning of a sequence? */
export function isSpecial(text) {
  return /^(<\|.*\|>|<\/?(s|bos|eos|pad|unk|start_of_turn|end_of_turn)>|\[(CLS|SEP|PAD|UNK|MASK)\])$/.test(text);
}

/** White space as signs, where a text is nothing else. */
export function visible(text) {
  return text !== "" && text.trim() === "" ? [...text].map((c) => VISIBLE[c] ?? c).join("") : text;
}

/** A token's text on one line with every space that begins or ends it shown, for lists. */
export function inList(text) {
  const [, before, middle, after] = /^(\s*)(.*?)(\s*)$/s.exec(text);
  const shown = (space) => [...space].map((c) => VISIBLE[c] ?? c).join("");
  return shown(before) + middle.replaceAll("\n", "↵") + shown(after);
}
