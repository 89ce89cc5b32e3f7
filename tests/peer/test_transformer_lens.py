"""HookedTransformer of TransformerLens 3 and SAELens's HookedSAETransformer against the transformers backend."""

from pathlib import Path

import pytest
import tiny
from peer.environments import PATIENCE_S, Peer

pytestmark = [pytest.mark.peer, pytest.mark.timeout(2 * PATIENCE_S)]


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_hooked_transformer_gives_what_transformers_gives(
    saelens: Peer, tmp_path: Path, request: pytest.FixtureRequest, kind: str, architecture: str
) -> None:
    """Activations, edits, generation, spliced SAEs under SAELens's names, and SAEs of a centred stream."""
    model: Path = request.getfixturevalue(f"{kind}_folder")
    sae = tiny.sae(tmp_path / "sae", architecture=architecture)

    saelens.run("run_transformer_lens.py", kind, model, sae)
