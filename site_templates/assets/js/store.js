// What a visitor chose, kept in this browser only. Without storage choices last until the page is left.

const memory = new Map();

export function get(key, otherwise) {
  try {
    const text = localStorage.getItem(`sitegen:${key}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return memory.has(key) ? memory.get(key) : otherwise;
  }
}

export function set(key, value) {
  memory.set(key, value);
  try {
    localStorage.setItem(`sitegen:${key}`, JSON.stringify(value));
  } catch {
    // Kept in memory.
  }
}
