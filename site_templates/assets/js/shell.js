// What every page has: theme, help, `/` for search.

import { $, announce } from "./dom.js";
import { bindKeys, showHelp } from "./keyboard.js";
import { get, set } from "./store.js";

const THEMES = ["system", "light", "dark"];
const SIGNS = { system: "◐", light: "☀", dark: "☾" };

function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = $('[data-action="theme"]');
  button.textContent = SIGNS[theme];
  button.setAttribute("aria-label", `Theme: ${theme}. Change theme`);
  button.title = `Theme: ${theme}`;
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(get("theme", "system")) + 1) % THEMES.length];
  set("theme", theme);
  applyTheme(theme);
  announce(`Theme: ${theme}`);
}

export function startShell() {
  const stored = get("theme", "system");
  applyTheme(THEMES.includes(stored) ? stored : "system");
  $('[data-action="theme"]').addEventListener("click", nextTheme);
  $('[data-action="help"]').addEventListener("click", showHelp);
  for (const button of document.querySelectorAll(".tool[hidden]")) button.hidden = false;
  bindKeys({
    "?": showHelp,
    "/": () => $("#search")?.focus(),
  });
}
