"""Train the three demo SAEs in one pass over the demo language model, as `train.toml` says.

    python -m sitegen.demo.train_saes --out saes

The same as `sae-fast train sitegen/demo/train.toml`, with the SAEs copied to where they are wanted. Contexts are 128 tokens of
the standard library's training files, the first of them a BOS, which is left out of training as it is from every dashboard.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from sae_fast.training import RunConfig, train

CONFIG = Path(__file__).with_name("train.toml")


def run(
    lm_folder: Path, out: Path, work: Path, n_tokens: int, corpus_tokens: int | None = None, held_out: float | None = None
) -> None:
    """Train into the folder `work` and write the SAEs to `out`; of the corpus and its held-out share as `train.toml` says."""
    config = RunConfig.load(CONFIG)
    share = config.activations.held_out if held_out is None else held_out
    config = replace(
        config,
        model=replace(config.model, source=str(lm_folder)),
        corpus=replace(config.corpus, max_tokens=corpus_tokens),
        train=replace(config.train, tokens=n_tokens),
        activations=replace(config.activations, folder=str(work / "activations"), held_out=share),
        output=replace(config.output, folder=str(work)),
    )
    for name, sae in train(config).items():
        sae.save(out / name, format="saelens")
        print(f"wrote {out / name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", type=Path, default=CONFIG.parent / "lm", help="folder of the demo LM")
    parser.add_argument("--out", type=Path, required=True, help="folder for the three SAE folders")
    parser.add_argument("--work", type=Path, default=Path("run"), help="folder of the run (default: %(default)s)")
    parser.add_argument("--tokens", type=float, default=3e6, help="activation vectors to train on (default 3e6)")
    arguments = parser.parse_args()
    run(arguments.lm, arguments.out, arguments.work, int(arguments.tokens))


if __name__ == "__main__":
    main()
