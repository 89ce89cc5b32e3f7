"""Read results with SAEBench's own classes: `run_saebench.py FILE…`; fails where one does not fit."""

import sys
from pathlib import Path

from pydantic import TypeAdapter
from sae_bench.evals.core.eval_output import CoreEvalOutput

for path in map(Path, sys.argv[1:]):
    TypeAdapter(CoreEvalOutput).validate_json(path.read_text(encoding="utf-8"))
