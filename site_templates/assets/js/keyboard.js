// Single-key shortcuts and the dialog that lists them.

import { $, h, isTyping } from "./dom.js";

const KEYS = [
  ["/", "search"],
  ["j  k", "next, previous feature"],
  ["[  ]", "previous, next group of examples"],
  ["g", "go to a feature by id"],
  ["s", "star this feature"],
  ["r", "random feature"],
  ["← →", "on a token: previous, next active token"],
  ["Esc", "close"],
  ["?", "this help"],
];

/** Call the handler of a key that is pressed alone, outside of text fields. */
export function bindKeys(handlers) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isTyping(event.target)) return;
    if ($("dialog[open]")) return;
    const handler = handlers[event.key];
    if (handler) {
      event.preventDefault();
      handler(event);
    }
  });
}

export function showHelp() {
  let dialog = $("#help");
  if (!dialog) {
    const rows = KEYS.map(([keys, what]) =>
      h("tr", {}, h("th", { scope: "row" }, keys.split("  ").map((key) => h("kbd", {}, key))), h("td", {}, what)),
    );
    const close = h("button", { type: "button", class: "button", onclick: () => dialog.close() }, "Close");
    dialog = h("dialog", { id: "help", "aria-labelledby": "help-title" }, h("h2", { id: "help-title" }, "Keyboard"), h("table", { class: "keys" }, h("tbody", {}, rows)), close);
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    document.body.append(dialog);
  }
  dialog.showModal();
}
