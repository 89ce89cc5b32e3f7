"""TensorBoard, wandb and trackio themselves: after a run that was killed and went on they hold what metrics.jsonl says."""

import json
from pathlib import Path

import pytest
import tiny
from peer.environments import PATIENCE_S, Peer

pytestmark = [pytest.mark.peer, pytest.mark.timeout(2 * PATIENCE_S)]


def test_all_three_hold_every_number_of_a_run_once(sinks: Peer, gpt2_folder: Path, tmp_path: Path) -> None:
    """Every name, step and value, in one run of the project, though the process was killed between."""
    texts = tiny.jsonl(tmp_path / "texts.jsonl", tiny.texts(60))
    config = {
        "model": {"source": str(gpt2_folder)},
        "corpus": {"source": str(texts), "context_length": 32},
        "train": {"tokens": 20 * 128, "batch_tokens": 128, "lr": 1e-3},
        "activations": {"held_out": 0.2},
        "output": {
            "folder": str(tmp_path / "run"), "checkpoint_tokens": 5 * 128, "log_steps": 2,
            "tensorboard": True, "wandb": "project", "trackio": "project",
        },
        "sae": [
            {"name": "topk", "architecture": "topk", "k": 4, "d_sae": 48, "hook_name": "blocks.1.hook_resid_post"},
            {"name": "batchtopk", "architecture": "batchtopk", "k": 5, "d_sae": 48, "hook_name": "blocks.1.hook_resid_post"},
        ],
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))

    sinks.run("run_sinks.py", tmp_path / "config.json")
