"""Which design and which tile an encoder kernel uses, from a table that the benchmark writes.

`_table.json` holds entries such as

    {"operation": "encode_topk", "capability": 90, "screen": false, "d_in": 2304, "d_sae": 65536, "n": 16384, "k": 64,
     "design": "groups", "tile": [128, 256, 64, 8, 8, 3, true], "status": "predicted", "ms": null}

`operation` is `encode_topk`, `encode_threshold` or `encode_batch_topk`; `capability` that of the card, times ten; `screen`
whether the weights are float32; `k` null where there is none; `design` `"groups"` (the product with the group epilogue) or
`"chunks"` (the vendor's product into a chunk that stays in L2, then the same epilogue); `tile` the fields of `Tile`, null for
chunks. `status` is `"measured"` where a benchmark compared the designs on that card and wrote the time, else `"predicted"`.
"""

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

TABLE = Path(__file__).with_name("_table.json")

Design = Literal["groups", "chunks"]


class Tile(NamedTuple):
    """Shape of the group product's work: one configuration of the compiled kernel."""

    rows: int
    columns: int
    depth: int
    panel: int
    """Tiles of tokens that share a tile of weights."""
    warps: int
    stages: int
    descriptors: bool
    """Operands are copied by the card's tensor memory unit (Hopper and later); needs d_in to be a multiple of 8."""


@dataclass(frozen=True)
class Choice:
    """How one call is computed."""

    design: Design
    tile: Tile
    status: Literal["measured", "predicted", "requested"] = "requested"


TILES: dict[int, tuple[Tile, ...]] = {
    80: (Tile(128, 128, 64, 8, 8, 3, False), Tile(128, 128, 32, 8, 4, 4, False), Tile(64, 128, 64, 8, 4, 3, False)),
    86: (Tile(128, 128, 32, 8, 8, 3, False), Tile(64, 128, 32, 8, 4, 4, False)),
    89: (Tile(128, 128, 32, 8, 8, 3, False), Tile(64, 128, 32, 8, 4, 4, False)),
    90: (
        Tile(128, 256, 64, 8, 8, 3, True),
        Tile(128, 128, 64, 8, 4, 3, True),
        Tile(128, 128, 64, 8, 8, 4, True),
        Tile(128, 256, 64, 8, 8, 3, False),
        Tile(64, 128, 64, 8, 4, 4, False),
    ),
    100: (Tile(128, 128, 64, 8, 8, 4, True), Tile(128, 128, 64, 8, 8, 3, False)),
    120: (Tile(128, 128, 32, 8, 8, 3, False), Tile(128, 128, 64, 8, 8, 2, True)),
}
"""Every tile that may be chosen, by compute capability; the first of each kind (with descriptors, without) is the default."""

INTERPRETED = Tile(16, 64, 32, 2, 4, 1, False)
"""Small, for the interpreter."""


def configurations(capability: int) -> tuple[Tile, ...]:
    """Tiles that may be chosen on a card: those of the newest listed card that is not newer."""
    known = [listed for listed in TILES if listed <= capability]
    return TILES[max(known)] if known else TILES[80]


def choose(
    operation: str, capability: int, screen: bool, d_in: int, d_sae: int, n: int, k: int | None, table: Path = TABLE
) -> Choice:
    """The entry of the nearest size, by the ratios of the four sizes; the card's first tile where there is none."""
    tiles = [tile for tile in configurations(capability) if d_in % 8 == 0 or not tile.descriptors]
    sizes = (d_in, d_sae, n, k)
    entries = [
        entry for entry in _entries(table)
        if (entry["operation"], entry["capability"], entry["screen"]) == (operation, capability, screen)
    ]  # fmt: skip
    entry = min(entries, key=lambda entry: _distance(entry, sizes), default=None)
    if entry is None:
        return Choice("groups", tiles[0], "predicted")
    tile = Tile(*entry["tile"]) if entry["tile"] else tiles[0]
    return Choice(entry["design"], tile if tile in tiles else tiles[0], entry["status"])


@cache
def _entries(table: Path) -> list[dict]:
    entries: list[dict] = json.loads(table.read_text(encoding="utf-8"))["entries"]
    return entries


def _distance(entry: dict, sizes: tuple[int, int, int, int | None]) -> float:
    listed = (entry["d_in"], entry["d_sae"], entry["n"], entry["k"])
    return sum(abs(math.log2(max(a, 1) / max(b, 1))) for a, b in zip(listed, sizes, strict=True) if a and b)
