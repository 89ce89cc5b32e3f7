"""The wheel: what is in it, what it asks for, and that the program it installs builds a site away from the source tree."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("sae_fast", "sitegen", "site_templates")
OPTIONAL = (
    "datasets",
    "huggingface_hub",
    "msgspec",
    "nnsight",
    "orjson",
    "pandas",
    "pyarrow",
    "scipy",
    "tokenizers",
    "tqdm",
    "transformer_lens",
    "transformers",
    "triton",
)
CORE_PROGRAM = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {optional!r}:
            raise ImportError(name + " is not installed")

sys.meta_path.insert(0, Refuse())
import torch, sae_fast
for name in sae_fast.__all__:
    getattr(sae_fast, name)
sae = sae_fast.load({folder!r})
x = torch.randn(5, sae.cfg.d_in)
acts = sae.encode(x)
assert acts.to_dense().shape == (5, sae.cfg.d_sae) and acts.nnz > 0
assert sae.decode(acts).shape == x.shape
print(sae_fast.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy so that no earlier build can leak into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__", "*.work", "*.tmp"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    arguments = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with nothing but the wheel; its dependencies are borrowed from the running interpreter."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = str(folder / "bin" / "python")
    arguments = ["install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", python, *arguments], check=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    borrowed = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    (site_packages / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    return folder


def run(environment: Path, *command: str, cwd: Path) -> str:
    """Run a program of `environment` away from the source tree and return what it printed."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]], cwd=cwd, env=variables, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_wheel_holds_all_data(wheel: Path) -> None:
    """Every file of the packages is in the wheel: templates, styles, modules, demo weights; and no compiled or working file."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and not any(part == "__pycache__" or part.endswith((".work", ".tmp")) for part in path.parts)
    }
    assert {name.partition("/")[0] for name in names} == set(PACKAGES)
    assert not expected - names
    assert not [name for name in names if name.endswith(".pyc") or ".work/" in name]
    for suffix in (".html", ".css", ".js"):
        assert any(name.startswith("site_templates/") and name.endswith(suffix) for name in names), suffix
    if (ROOT / "sitegen" / "demo" / "saes").is_dir():
        assert sum(name.startswith("sitegen/demo/") and name.endswith(".safetensors") for name in names) >= 4


def test_wheel_metadata(wheel: Path) -> None:
    """The version is the package's; torch, numpy and safetensors alone are required; both programs are installed."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata_name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(metadata_name).decode())
        entry_points = archive.read(metadata_name.replace("METADATA", "entry_points.txt")).decode()
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "sae_fast" / "__init__.py").read_text(), re.MULTILINE)
    assert version is not None
    assert metadata["Version"] == version[1]
    assert metadata["License-Expression"] == "MIT"
    assert sorted(re.split(r"[<>=]", line)[0] for line in required) == ["numpy", "safetensors", "torch"]
    assert "sitegen = sitegen.cli:main" in entry_points
    assert "sae-fast = sae_fast.cli:main" in entry_points


def test_installed_sitegen_builds_a_site(environment: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    """The installed `sitegen` builds a site from a release file, and the code that runs is the wheel's."""
    tiny.sae(tmp_path / "sae")
    tiny.jsonl(tmp_path / "corpus.jsonl")
    (tmp_path / "release.toml").write_text(
        f"""
        [model]
        source = "{gpt2_folder}"
        [corpus]
        source = "corpus.jsonl"
        context_length = 64
        [[sae]]
        source = "sae"
        slug = "tiny"
        [evaluation]
        tokens = 512
        """
    )
    where = run(environment, "python", "-c", "import sitegen; print(sitegen.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment)
    run(environment, "sitegen", "build", "release.toml", "--out", "site", cwd=tmp_path)
    manifest = json.loads((tmp_path / "site" / "data" / "manifest.json").read_text())
    assert [sae["slug"] for sae in manifest["saes"]] == ["tiny"]
    assert (tmp_path / "site" / "index.html").is_file()


def test_core_needs_three_packages(environment: Path, tmp_path: Path) -> None:
    """With torch, numpy and safetensors alone, every public name of sae_fast resolves and an SAE loads, encodes and decodes."""
    folder = tiny.sae(tmp_path / "sae")
    program = CORE_PROGRAM.format(optional=set(OPTIONAL), folder=str(folder))
    printed = run(environment, "python", "-I", "-c", program, cwd=tmp_path)
    assert Path(printed.strip()).is_relative_to(environment)


def test_constraints_pin_what_is_asked_for() -> None:
    """constraints.txt pins every direct dependency of every extra, each to one version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    asked = {re.split(r"[\[<>=;]", line)[0].strip().lower() for line in requirements} - {"sae-fast"}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = [line.partition("==")[0].lower() for line in lines]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert len(pinned) == len(set(pinned))
    assert not asked - set(pinned)
