"""The documents say what is there: commands, files, versions, and an example that runs."""

import re
import subprocess
import sys
import tomllib
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from sitegen import release

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
DOCUMENTS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + DOCS
PROGRAMS = {"sitegen": "sitegen.cli", "sae-fast": "sae_fast.cli"}


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def commands(program: str) -> list[str]:
    """The subcommands that `<program> --help` lists."""
    code = f"import sys; from {PROGRAMS[program]} import main; sys.argv[0] = {program!r}; sys.exit(main())"
    result = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^ {4}([a-z][a-z-]*)(?: {2}|$)", result.stdout, re.MULTILINE)
    assert listed, result.stdout
    return listed


def tree_entries() -> list[Path]:
    """The paths of README's annotated tree, relative to the repository."""
    tree = re.search(r"## What is where\n+```\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    found, folder = [], Path()
    for line in tree[1].splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = Path(name) if name.endswith("/") else Path()
            found.append(Path(name))
        else:
            found.append(folder / name)
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_is_documented(program: str) -> None:
    """README or docs name each subcommand of each program as one types it."""
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    missing = [command for command in commands(program) if not re.search(rf"\b{program} {command}\b", text)]
    assert not missing


def test_every_make_target_exists() -> None:
    """Each `make target` that a document names is a target of the Makefile."""
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    named = set(re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )?([a-z-]+)", text, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert not named - targets


def documented_default(field: Field[Any]) -> str:
    """A field's default as docs/release-file.md writes it: in TOML without quotes, a dash for none."""
    if field.default in (MISSING, None, ""):
        return "–"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    if isinstance(field.default, int):
        return f"`{field.default:,}`"
    return "`[]`" if field.default == () else f"`{field.default}`"


@pytest.mark.parametrize("name", [name for name in get_type_hints(release.Release) if name != "path"])
def test_every_release_key_is_documented(name: str) -> None:
    """docs/release-file.md lists exactly the keys of each table of a release file, in order, with their defaults."""
    annotation = get_type_hints(release.Release)[name]
    table = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    sections = re.split(r"^## ", (ROOT / "docs" / "release-file.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = (section for section in sections if section.startswith((f"[{name}]\n", f"[[{name}]]\n")))
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", section, re.MULTILINE)
    assert rows == [(field.name, documented_default(field)) for field in fields(table)]


def test_tree_names_what_is_there() -> None:
    """Every path of README's annotated tree exists, and every module and folder of both packages is in it."""
    entries = tree_entries()
    assert not [str(path) for path in entries if not (ROOT / path).exists()]
    there = {
        path.relative_to(ROOT)
        for package in ("sae_fast", "sitegen")
        for path in (ROOT / package).iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or any(path.glob("*.py")))
    }
    assert not {str(path) for path in there - set(entries)}


def test_readme_examples_run() -> None:
    """The Python examples of the README that need no network run from the repository's root and print what they say."""
    if not (ROOT / "sitegen" / "demo" / "saes" / "topk").is_dir():
        pytest.skip("the demo's SAEs are not in sitegen/demo")
    blocks = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    local = [block for block in blocks if "hf://" not in block]
    assert len(local) == len(blocks) - 1 == 2
    result = subprocess.run([sys.executable, "-c", "\n".join(local)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^\d+\.\d features per token, squared error \d+\.\d+$", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["contrast.md", "attribution.md", "models.md"])
def test_examples_of_a_page_run(name: str, tmp_path: Path) -> None:
    """The Python blocks of a page run one after the other, on the demo's model and SAEs."""
    if not (ROOT / "sitegen" / "demo" / "saes" / "topk").is_dir():
        pytest.skip("the demo's SAEs are not in sitegen/demo")
    (tmp_path / "sitegen").symlink_to(ROOT / "sitegen")
    blocks = re.findall(r"```python\n(.+?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.DOTALL)
    result = subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(blocks) > 1


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents(path: Path) -> None:
    """Every relative link or picture of a document leads to a file of the repository."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
    broken = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not broken


def test_documentation_lists_every_page() -> None:
    """mkdocs.yml has every page under docs/ in its navigation, and no page that is not there."""
    listed = re.findall(r"^ +- .*?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(path.relative_to(ROOT / "docs")) for path in DOCS)


def test_changelog_begins_with_this_version() -> None:
    """The newest section of the changelog is unreleased work or the version of pyproject.toml; that version is there."""
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] in {"Unreleased", version()}
    assert version() in sections


def test_citation_has_this_version() -> None:
    """CITATION.cff names the version of pyproject.toml."""
    assert f"\nversion: {version()}\n" in (ROOT / "CITATION.cff").read_text()
