"""Release files: what is read, and what is refused."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sitegen.errors import ReleaseError
from sitegen.release import DEMO, ComparisonOptions, ContrastOptions, Release
from sitegen.release_template import TEMPLATE

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = {"model": {"source": "owner/model"}, "corpus": {"source": "standard-library"}, "sae": [{"source": "owner/sae"}]}


def changed(**tables: Any) -> dict[str, Any]:
    """MINIMAL with keys added to its tables."""
    content: dict[str, Any] = {name: dict(table) for name, table in MINIMAL.items() if name != "sae"}
    content["sae"] = [dict(table) for table in MINIMAL["sae"]]
    for name, table in tables.items():
        content[name] = {**content.get(name, {}), **table} if isinstance(table, dict) else table
    return content


def test_defaults_fill_what_a_release_does_not_say() -> None:
    """Three sources are a whole release."""
    release = Release.from_dict(MINIMAL)

    assert (release.model.dtype, release.model.backend, release.model.device) == ("float32", "transformers", "cpu")
    assert release.corpus.context_length == 128
    assert release.corpus.prepend_bos == "auto"
    assert release.evaluation.tokens == 65_536
    assert release.sae[0].fold_decoder_norm is False


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A source that exists beside the release file is that file; another one is left as a hub name."""
    (tmp_path / "model").mkdir()
    path = tmp_path / "release.toml"
    path.write_text('[model]\nsource = "model"\n[corpus]\nsource = "owner/text"\n[[sae]]\nsource = "owner/sae"\n')
    release = Release.load(path)

    assert release.model.source == str((tmp_path / "model").resolve())
    assert release.corpus.source == "owner/text"


def test_the_file_that_new_writes_loads(tmp_path: Path) -> None:
    """The commented template is a valid release, and stays one when every default is uncommented."""
    path = tmp_path / "release.toml"
    path.write_text(TEMPLATE.format(name="release.toml"))
    assert Release.load(path).corpus.source == "standard-library"

    path.write_text(re.sub(r"^# (\[|\w+ = )", r"\1", path.read_text(), flags=re.MULTILINE))
    full = Release.load(path)
    assert full.corpus.max_tokens == 10_000_000
    assert full.model.arguments == {"revision": "main"}


def test_documented_keys_and_defaults_are_those_of_the_code() -> None:
    """docs/release-file.md lists every key of every table with its default, in order, and nothing else."""
    release = Release.from_dict(MINIMAL)
    tables = {name: getattr(release, name) for name in ("site", "model", "corpus", "facts", "evaluation", "build")}
    expected = {
        name: {option.name: shown(option) for option in dataclasses.fields(table)}
        for name, table in {
            **tables,
            "[sae]": release.sae[0],
            "[contrast]": ContrastOptions("result"),
            "[comparison]": ComparisonOptions("result"),
        }.items()
    }
    assert documented() == expected


def test_every_key_is_in_the_template() -> None:
    """`sitegen new` names every key."""
    release = Release.from_dict(MINIMAL)
    options = [option for option in dataclasses.fields(release)[3:] if dataclasses.is_dataclass(option.default_factory)]
    results = (ContrastOptions("result"), ComparisonOptions("result"))
    for table in (*(getattr(release, option.name) for option in options), release.sae[0], *results):
        for option in dataclasses.fields(table):
            assert f"{option.name} =" in TEMPLATE or f"model.{option.name}" in TEMPLATE


def shown(option: dataclasses.Field[Any]) -> str:
    """A default as the documentation writes it; – where there is none."""
    default = option.default
    if default is dataclasses.MISSING or default is None or default == "":
        return "–"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return "`[]`" if default == () else f"`{default:,}`" if isinstance(default, int) else f"`{default}`"


def documented() -> dict[str, dict[str, str]]:
    """Default by key by table, read off docs/release-file.md."""
    tables: dict[str, dict[str, str]] = {}
    for line in (ROOT / "docs" / "release-file.md").read_text().splitlines():
        if heading := re.fullmatch(r"## \[(.+)\]", line):
            rows = tables.setdefault(heading[1], {})
        elif row := re.match(r"\| `(\w+)` \| (.+?) \|", line):
            rows[row[1]] = row[2]
    return tables


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (changed(corpus={"contxt_length": 3}), ["[corpus]", "contxt_length", "'context_length'"]),
        (changed(sae=[{"source": "x", "hookname": "y"}]), ["[[sae]] number 1", "hookname", "'hook_name'"]),
        (changed(facts={"exampels": 3}), ["[facts]", "exampels", "'examples'"]),
        (changed(modell={"source": "x"}), ["[modell]", "'model'"]),
        ({**MINIMAL, "sae": {"source": "x"}}, ["[[sae]]"]),
        (changed(sae=[]), ["[[sae]]"]),
        (changed(corpus={"context_length": "128"}), ["[corpus] context_length", "an integer", "'128'"]),
        (changed(corpus={"context_length": True}), ["[corpus] context_length", "an integer", "a boolean"]),
        (changed(corpus={"context_length": 1}), ["context_length", "at least 2", "got 1"]),
        (changed(corpus={"prepend_bos": "yes"}), ["prepend_bos", "true or false or 'auto'", "'yes'"]),
        (changed(corpus={"roles": "user"}), ["roles", "an array of strings", "a string"]),
        (changed(model={"dtype": "float8"}), ["dtype", "'bfloat16'", "float8"]),
        (changed(model={"arguments": 3}), ["arguments", "a table"]),
        (changed(sae=[{"source": "x", "slug": "A b"}]), ["slug", "'A b'"]),
        (changed(sae=[{"source": "x", "slug": "a"}, {"source": "y", "slug": "a"}]), ["slug 'a'", "2 SAEs"]),
        ({key: MINIMAL[key] for key in ("corpus", "sae")}, ["[model]", "missing"]),
        (changed(model={"source": "./not/there"}), ["not/there", "no"]),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[0],
)
def test_what_is_not_understood_is_refused(content: dict[str, Any], parts: list[str]) -> None:
    """A wrong key, type or value is an error that names it, what was expected and what was there."""
    with pytest.raises(ReleaseError) as caught:
        Release.from_dict(content)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("text", [b"[model\n", b"\xff\xfe", None], ids=["not TOML", "not UTF-8", "missing"])
def test_unreadable_files_are_named(tmp_path: Path, text: bytes | None) -> None:
    """A file that is missing or not TOML is an error that begins with its path or names it."""
    path = tmp_path / "release.toml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ReleaseError, match=r"release\.toml"):
        Release.load(path)


def test_the_demo_is_a_release() -> None:
    """The release file inside the package names the demo's three SAEs."""
    text = DEMO.read_text()

    assert [f'slug = "{slug}"' in text for slug in ("topk", "jumprelu", "batchtopk")] == [True, True, True]


def test_an_up_to_date_site_is_recognised_without_torch() -> None:
    """Reading a release and naming its build import neither torch nor transformers."""
    code = (
        "import sys; from sitegen.recipe import build_id; from sitegen.release import Release; "
        "build_id(Release.load('demo')); print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
