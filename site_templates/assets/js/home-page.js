// The start page: search over every SAE, and the features starred in this browser.

import { $, h } from "./dom.js";
import { startSearch } from "./search.js";
import { startShell } from "./shell.js";
import { featureUrl, page, saeBySlug } from "./site.js";
import { starred } from "./stars.js";

startShell();
startSearch(page.saes, (link) => location.assign(link.href));

const links = starred()
  .map((name) => name.split("/"))
  .filter(([slug]) => saeBySlug(slug))
  .map(([slug, id]) => h("li", {}, h("a", { href: featureUrl(slug, id) }, `${saeBySlug(slug).name} #${id}`)));
$("#starred .starred").append(...links);
$("#starred").hidden = links.length === 0;
