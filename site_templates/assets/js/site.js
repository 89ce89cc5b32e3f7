// Where the site lies and what this page is about.

export const ROOT = new URL("../../../", import.meta.url);

const element = document.getElementById("page-data");
export const page = element ? JSON.parse(element.textContent) : { build: "", title: "", slug: null, saes: [] };

export const currentSae = page.saes.find((sae) => sae.slug === page.slug) ?? null;

export function saeBySlug(slug) {
  return page.saes.find((sae) => sae.slug === slug) ?? null;
}

export function featureUrl(slug, id) {
  return new URL(`sae/${slug}/feature.html?f=${id}`, ROOT).href;
}

export function definitionUrl(term) {
  return new URL(`definitions.html#${term}`, ROOT).href;
}
