// Whatever depth the missing address has, the way home is known from where this script lies.

import { ROOT } from "./site.js";

for (const link of document.querySelectorAll("[data-home]")) link.href = new URL("index.html", ROOT).href;
