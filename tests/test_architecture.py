"""The shape of the code: who may import whom, and what must exist together."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from sae_fast import kernels as kernels_package
from sae_fast import ops, reference

ROOT = Path(__file__).resolve().parent.parent
SAE_FAST = sorted((ROOT / "sae_fast").rglob("*.py"))
SITEGEN = sorted((ROOT / "sitegen").rglob("*.py"))
CORE_PACKAGES = {"torch", "numpy", "safetensors", "sae_fast"}

CHOICES = ("impl", "check_finite", "approximate")
"""Arguments of an operation that say how, not what, it computes."""

OPERATIONS = sorted(name for name in ops.__all__ if "impl" in inspect.signature(getattr(ops, name)).parameters)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path, at_top_only: bool = False) -> set[str]:
    """Dotted names of everything that a file imports, `from a import b` as `a.b`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = list(path.relative_to(ROOT).parts[:-1])
    found: set[str] = set()
    for node in tree.body if at_top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def imports_any(path: Path, *modules: str) -> list[str]:
    """What `path` imports of the modules or of what lies below them."""
    return sorted(name for name in imports(path) if any(name == m or name.startswith(f"{m}.") for m in modules))


@pytest.mark.parametrize("path", SAE_FAST, ids=name_of)
def test_sae_fast_never_imports_sitegen(path: Path) -> None:
    """Sitegen → sae_fast, never back."""
    assert imports_any(path, "sitegen", "site_templates") == []


@pytest.mark.parametrize("path", [p for p in SAE_FAST if p.parent.name == "kernels"], ids=name_of)
def test_kernels_import_neither_ops_nor_reference(path: Path) -> None:
    """A kernel knows nothing of its specification or of dispatch."""
    assert imports_any(path, "sae_fast.ops", "sae_fast.reference", "sae_fast.sae") == []


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("errors", ["torch", "sae_fast"]),
        ("sparse", ["sae_fast.ops", "sae_fast.sae", "sae_fast.reference", "sae_fast.formats"]),
        ("reference", ["sae_fast.ops", "sae_fast.cpu", "sae_fast.kernels", "sae_fast.sae"]),
        ("cpu", ["sae_fast.ops", "sae_fast.reference", "sae_fast.kernels", "sae_fast.sae"]),
        ("autograd/operators", ["sae_fast.ops", "sae_fast.sae"]),
        ("ops", ["sae_fast.sae", "sae_fast.formats", "sae_fast.lm"]),
        ("config", ["torch", "sae_fast.ops", "sae_fast.sae", "sae_fast.weights"]),
        ("weights", ["sae_fast.ops", "sae_fast.sae", "sae_fast.architectures"]),
        ("sae", ["sae_fast.lm", "sae_fast.training", "sae_fast.evaluation"]),
    ],
)
def test_modules_build_on_each_other_in_one_direction(module: str, forbidden: list[str]) -> None:
    """Errors ← sparse ← reference, cpu ← ops ← sae ← formats, training, evaluation."""
    files = [ROOT / "sae_fast" / f"{module}.py", *(ROOT / "sae_fast" / module).glob("*.py")]

    assert [name for path in files if path.exists() for name in imports_any(path, *forbidden)] == []


@pytest.mark.parametrize("path", [p for p in SAE_FAST if "lm" not in p.parts], ids=name_of)
def test_the_core_needs_torch_numpy_and_safetensors_alone(path: Path) -> None:
    """Outside the language model backends, nothing else is imported at the top of a file; kernels also import Triton."""
    packages = {name.split(".")[0] for name in imports(path, at_top_only=True)}
    allowed = CORE_PACKAGES | ({"triton"} if path.parent.name == "kernels" else set())

    assert packages - allowed - set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize("path", [p for p in SITEGEN if "write" in p.parts], ids=name_of)
def test_the_writer_never_imports_torch(path: Path) -> None:
    """sitegen.write names neither torch nor what brings it."""
    assert imports_any(path, "torch", "transformers", "sae_fast.sae", "sae_fast.ops", "sae_fast.sparse") == []


def test_importing_the_writer_loads_no_torch() -> None:
    """Nor does anything that sitegen.write imports."""
    code = "import sys, sitegen.write; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "False"


def test_templates_hold_no_python() -> None:
    """site_templates knows presentation only; at most an empty package file marks it for the wheel."""
    code = [path for path in (ROOT / "site_templates").rglob("*.py") if imports(path)]

    assert code == []


def test_the_operations_are_found() -> None:
    """The tests below loop over the public operations."""
    decoding = ["decode", "decode_error", "transpose"]
    encoding = ["encode_batch_topk", "encode_threshold", "encode_topk"]
    backward = ["bias_gradient", "sampled_dot", "weight_gradient"]

    assert sorted([*decoding, *encoding, *backward]) == OPERATIONS


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_its_faces(operation: str) -> None:
    """One name as operation, specification, test and benchmark, each documented."""
    tests = (ROOT / "tests" / "sae_fast" / "test_ops.py").read_text(encoding="utf-8")
    benchmarks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("bench_*.py"))

    assert getattr(ops, operation).__doc__
    assert getattr(reference, operation).__doc__
    assert f"ops.{operation}(" in tests
    assert f"def bench_{operation}(" in benchmarks


@pytest.mark.parametrize("operation", OPERATIONS)
def test_specification_and_implementation_take_the_same_arguments(operation: str) -> None:
    """The reference, the CPU implementation and the public operation agree on names and order."""
    from sae_fast import cpu

    public = [name for name in inspect.signature(getattr(ops, operation)).parameters if name not in CHOICES]

    assert list(inspect.signature(getattr(reference, operation)).parameters) == public
    assert list(inspect.signature(getattr(cpu, operation)).parameters) == public


def test_kernels_are_named_after_operations() -> None:
    """Each file of sae_fast.kernels implements an operation of that name."""
    folder = Path(kernels_package.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}

    assert files <= set(OPERATIONS)
    assert kernels_package.__doc__


@pytest.mark.parametrize("path", [*SAE_FAST, *SITEGEN], ids=name_of)
def test_no_drawers_for_odds_and_ends(path: Path) -> None:
    """No utils.py or helpers.py, and no file beyond 400 lines."""
    assert path.stem not in {"utils", "helpers", "misc", "common"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
