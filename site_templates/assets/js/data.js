// The only file that fetches. Every file is asked for once; a failed one can be asked for again.

import { page, ROOT } from "./site.js";

const RETRIES = 2;
const KEPT_SHARDS = 48;
const cache = new Map();
const shardPaths = new Set();

export class DataError extends Error {
  /** `missing`: the server answered that there is no such file. */
  constructor(message, path, missing = false) {
    super(message);
    this.path = path;
    this.missing = missing;
  }
}

/** All features of an SAE by column. */
export function table(sae) {
  return load(`data/${sae.slug}/features.json.gz`);
}

export function hasTable(sae) {
  return cache.has(`data/${sae.slug}/features.json.gz`);
}

/** The shard that holds a feature. */
export function shard(sae, id) {
  const path = shardPath(sae, id);
  shardPaths.delete(path);
  shardPaths.add(path);
  if (shardPaths.size > KEPT_SHARDS) {
    const [oldest] = shardPaths;
    shardPaths.delete(oldest);
    cache.delete(oldest);
  }
  return load(path);
}

/** Token texts by id, or null where they travel with the shards. */
export function vocabulary(sae) {
  return sae.vocabulary ? load(sae.vocabulary) : Promise.resolve(null);
}

/** Fetch a shard before it is asked for; failure is silent, since nobody asked. */
export function prefetch(sae, id) {
  if (id >= 0 && id < sae.d_sae && !cache.has(shardPath(sae, id))) shard(sae, id).catch(() => {});
}

function shardPath(sae, id) {
  const number = Math.floor(id / sae.shard_size);
  return `data/${sae.slug}/f/${Math.floor(number / 256)}/${number}.json.gz`;
}

function load(path) {
  let promise = cache.get(path);
  if (!promise) {
    promise = fetchJson(path);
    cache.set(path, promise);
    promise.catch(() => cache.delete(path));
  }
  return promise;
}

async function fetchJson(path) {
  const response = await attempt(path);
  const bytes = new Uint8Array(await response.arrayBuffer());
  try {
    return JSON.parse(await text(bytes));
  } catch (error) {
    throw new DataError(`${path} is damaged: ${error.message}`, path);
  }
}

/** Some hosts decompress `.gz` for the browser: the first two bytes tell. */
async function text(bytes) {
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return new TextDecoder().decode(bytes);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function attempt(path) {
  const url = new URL(path, ROOT);
  url.searchParams.set("v", page.build);
  for (let tried = 0; ; tried++) {
    let response = null;
    try {
      response = await fetch(url);
    } catch (error) {
      if (tried === RETRIES) throw new DataError(`${path} cannot be reached (${error.message}).`, path);
    }
    if (response?.ok) return response;
    if (response && response.status < 500 && response.status !== 429) {
      throw new DataError(`The site has no file ${path} (${response.status}).`, path, response.status === 404);
    }
    if (response && tried === RETRIES) throw new DataError(`${path} cannot be read (${response.status}).`, path);
    await new Promise((resolve) => setTimeout(resolve, 300 * 4 ** tried));
  }
}
