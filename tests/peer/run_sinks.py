"""Runs in an environment with tensorboard, wandb and trackio: `run_sinks.py CONFIG.json`.

Trains, in two parts as after a kill, with all three switched on, then reads back what they wrote, with their own readers, and
compares it with metrics.jsonl. Nothing is sent anywhere: wandb is offline, trackio local.
"""

import json
import os
import sqlite3
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sae_fast.training import RunConfig, train
from sae_fast.training.trainer import Trainer

CONFIG = json.loads(Path(sys.argv[1]).read_text())
FOLDER = Path(CONFIG["output"]["folder"])
TRACKIO = FOLDER.parent / "trackio"
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1", "TRACKIO_DIR": str(TRACKIO)}

Curves = dict[str, dict[int, float]]


class Killed(BaseException):
    """Stands in for a power cut."""


def from_metrics() -> Curves:
    """What metrics.jsonl says: by name, then by step."""
    curves: Curves = {}
    for line in (FOLDER / "metrics.jsonl").read_text().splitlines():
        found = json.loads(line)
        name, step, terms = found.pop("sae"), found.pop("step"), found.pop("terms")
        for key, value in {**found, **terms}.items():
            curves.setdefault(f"{name}/{key}", {})[step] = value
    return curves


def from_tensorboard() -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(FOLDER / "tensorboard"))
    events.Reload()
    found: Curves = {}
    for tag in events.Tags()["scalars"]:
        scalars = events.Scalars(tag)
        assert len({one.step for one in scalars}) == len(scalars), f"{tag}: steps twice"
        found[tag] = {one.step: one.value for one in scalars}
    return found


def wandb_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: seven bytes, then LevelDB's log format, in blocks of 32 KiB."""
    record, place = b"", 7
    while place + 7 <= len(data):
        left = -place % 32768
        if 0 < left < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def from_wandb() -> Curves:
    from wandb.proto.wandb_internal_pb2 import Record

    found: Curves = {}
    ids = set()
    for file in sorted((FOLDER / "wandb").glob("offline-run-*/*.wandb")):
        for data in wandb_records(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add((record.run.project, record.run.run_id))
            if record.HasField("history"):
                items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                step = int(record.history.step.num)
                for key, value in items.items():
                    if not key.startswith("_"):
                        found.setdefault(key, {})[step] = value
    assert ids == {("project", (FOLDER / "run_id").read_text())}, ids
    return found


def from_trackio() -> Curves:
    found: Curves = {}
    (file,) = TRACKIO.rglob("project*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, step, metrics from metrics").fetchall()
    assert {name for name, _, _ in rows} == {(FOLDER / "run_id").read_text()}
    for _, step, metrics in rows:
        for key, value in json.loads(metrics).items():
            found.setdefault(key, {})[step] = value
    return found


def compare(what: str, got: Curves, expected: Curves) -> None:
    assert set(got) == set(expected), f"{what}: {set(got) ^ set(expected)}"
    for name, curve in expected.items():
        assert set(got[name]) == set(curve), f"{what}, {name}: steps {sorted(set(got[name]) ^ set(curve))}"
        for step, value in curve.items():
            # TensorBoard keeps float32.
            found = got[name][step]
            assert abs(found - value) <= 1e-6 * abs(value), f"{what}, {name}, step {step}: {found} for {value}"


def killed_after(n_steps: int) -> Any:
    step, taken = Trainer._train, [0]

    def failing(self: Trainer, *arguments: Any) -> Any:
        if taken[0] == n_steps:
            raise Killed
        taken[0] += 1
        return step(self, *arguments)

    Trainer._train = failing  # type: ignore[method-assign]
    return step


def main() -> None:
    os.environ.update(OFFLINE)
    config = RunConfig.from_dict(CONFIG)
    whole = killed_after(13)
    try:
        train(config, show_progress=False)
        raise AssertionError("not killed")
    except Killed:
        Trainer._train = whole  # type: ignore[method-assign]
    train(config, show_progress=False)
    expected = from_metrics()
    assert expected["topk/loss"].keys() == {2, 4, 6, 8, 10, 12, 14, 16, 18, 20}, sorted(expected["topk/loss"])
    compare("tensorboard", from_tensorboard(), expected)
    compare("wandb", from_wandb(), expected)
    compare("trackio", from_trackio(), expected)


if __name__ == "__main__":
    main()
