"""What importing costs, in fresh processes."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import sae_fast

ROOT = Path(__file__).resolve().parents[2]
CORE = ("torch", "numpy", "safetensors")
OPTIONAL = (
    "transformers",
    "tokenizers",
    "datasets",
    "scipy",
    "triton",
    "jinja2",
    "orjson",
    "tqdm",
    "huggingface_hub",
    "pandas",
    "yaml",
    "transformer_lens",
    "nnsight",
    "requests",
    "httpx",
    "fsspec",
)
SECONDS = 0.3
"""What importing the package may cost beyond torch, in processor time."""

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
"""

NO_SOCKETS = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise AssertionError(f"{event}: {arguments}")
sys.addaudithook(refuse)
"""


def python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter; it must succeed."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_loads_nothing_heavy() -> None:
    """`import sae_fast` loads neither torch nor any optional package, and prints nothing."""
    out = python(f"import sys, sae_fast; print([m for m in {(*CORE, *OPTIONAL)} if m in sys.modules])")

    assert out.strip() == "[]"


def test_import_is_quick() -> None:
    """The package, its formats and operations cost little beyond torch, numpy and safetensors."""
    code = (
        "import time, torch, numpy, safetensors.torch; before = time.process_time(); "
        "import sae_fast, sae_fast.formats, sae_fast.ops, sae_fast.catalogue; print(time.process_time() - before)"
    )

    assert min(float(python(code)) for _ in range(2)) < SECONDS


def test_core_works_without_optional_packages(tmp_path: Path) -> None:
    """With only torch, numpy and safetensors, and no sockets, an SAE is built, saved, loaded in both formats and run."""
    code = (
        BLOCK.format(blocked=OPTIONAL)
        + NO_SOCKETS
        + f"""
import torch, sae_fast
cfg = sae_fast.SAEConfig(architecture="jumprelu", d_in=4, d_sae=8)
ones = torch.ones
tensors = dict(W_enc=ones(4, 8), W_dec=ones(8, 4), b_enc=ones(8), b_dec=ones(4), threshold=ones(8))
sae = sae_fast.SAE(cfg, **tensors)
for format in ("saelens", "gemma_scope"):
    sae.save({str(tmp_path)!r} + "/" + format, format)
    loaded = sae_fast.load({str(tmp_path)!r} + "/" + format)
    assert torch.equal(loaded(ones(2, 4)), sae(ones(2, 4)))
    sae_fast.load({str(tmp_path)!r} + "/" + format, features=[1], encoder_only=True)
    sae_fast.formats.info({str(tmp_path)!r} + "/" + format)
assert len(sae_fast.catalogue.find(model="gpt2")) > 100
assert not any(name in sys.modules for name in ("sae_fast.sources.http", "sae_fast.sources.hub"))
print("done")
"""
    )

    assert python(code).strip() == "done"


def test_the_command_line_answers_without_torch() -> None:
    """`sae-fast --version` and `--help` do not wait for torch."""
    code = (
        BLOCK.format(blocked=CORE)
        + """
import contextlib, sae_fast.cli
for option in ("--version", "--help"):
    with contextlib.suppress(SystemExit):
        sae_fast.cli.main([option])
"""
    )

    assert sae_fast.__version__ in python(code)


def test_the_catalogue_needs_no_torch() -> None:
    """`sae-fast list` answers without torch and without a network."""
    code = BLOCK.format(blocked=CORE) + NO_SOCKETS + "import sae_fast.cli; sae_fast.cli.main(['list', '--model', 'gpt2'])"

    assert "gpt2-small-res-jb/blocks.8.hook_resid_pre" in python(code)


def test_using_the_core_imports_no_optional_package() -> None:
    """Loading the SAE class, formats and operations pulls in nothing that is optional for sae_fast itself."""
    # torch itself imports some of these where they are installed, so what it brings alone is left out.
    count = f"[m for m in {OPTIONAL} if m in sys.modules]"
    code = f"import sys, torch, numpy, safetensors.torch; before = {count}; import sae_fast.formats, sae_fast.ops; "

    assert python(code + f"print(sorted(set({count}) - set(before)))").strip() == "[]"


@pytest.mark.parametrize("name", sae_fast.__all__)
def test_every_public_name_resolves(name: str) -> None:
    """Each name of __all__ can be used, and is listed by dir()."""
    assert getattr(sae_fast, name) is not None
    assert name in dir(sae_fast)


def test_other_names_do_not_exist() -> None:
    """A misspelt name raises AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="has no attribute 'loda'"):
        sae_fast.loda  # noqa: B018


@pytest.mark.parametrize("module", ["catalogue.search", "errors", "formats", "ops", "reference", "sae", "sparse"])
def test_modules_have_docstrings_for_what_is_public(module: str) -> None:
    """Every public class and function says what it does."""
    imported = importlib.import_module(f"sae_fast.{module}")
    public = [value for name, value in vars(imported).items() if not name.startswith("_") and callable(value)]
    own = [value for value in public if getattr(value, "__module__", None) == imported.__name__]

    assert own
    assert [value.__name__ for value in own if not value.__doc__] == []
