"""Evaluate the demo on held-out files of the standard library, and write the numbers into its model card.

    python -m sitegen.demo.evaluate

`sae-fast eval` with the demo's model, SAEs and texts: `evaluation.json` and the section of `README.md` beside this file come
from it. Takes some minutes.
"""

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

from sae_fast import cli
from sae_fast.evaluation.report import FILE

FOLDER = Path(__file__).parent
SAES = ("topk", "jumprelu", "batchtopk")


def arguments(out: Path) -> list[str]:
    """Return the command, to be run in this folder: paths in the result are then those of the repository."""
    saes = [part for name in SAES for part in ("--sae", f"{name}=saes/{name}")]
    texts = ["--corpus", "standard-library", "--split", "held_out"]
    return ["eval", "--model", "lm", "--model-name", "demo-lm", *texts, *saes, "--out", str(out), "--card", "README.md"]


def main() -> None:
    """Run the command; leave nothing but the card and the numbers."""
    with contextlib.chdir(FOLDER), tempfile.TemporaryDirectory() as folder:
        code = cli.main(arguments(Path(folder)))
        if code:
            sys.exit(code)
        shutil.copyfile(Path(folder, FILE), FILE)


if __name__ == "__main__":
    main()
