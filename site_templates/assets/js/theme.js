// Runs before the page is drawn, so that a stored theme never flashes: the only script that is no module.
try {
  const theme = JSON.parse(localStorage.getItem("sitegen:theme"));
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is switched off: the system's theme holds.
}
