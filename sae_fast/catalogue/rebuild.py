"""Make the catalogue anew from the directory of pretrained SAEs that SAELens ships (facts alone; MIT licence).

pip install --no-deps sae-lens==6.54.12 pyyaml
python -m sae_fast.catalogue.rebuild [pretrained_saes.yaml]
"""

import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_fast.catalogue.facts import FORMATS, MODELS, hook_of, l0_of, layer_of, width_of
from sae_fast.catalogue.search import COLUMNS, DATA
from sae_fast.errors import MissingExtraError, SourceError

DIRECTORY = "pretrained_saes.yaml"


def main() -> None:
    """Write `releases.json` beside this file."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else installed_directory()
    text = catalogue_of(read(file), version_of(file))
    target = Path(__file__).with_name(DATA)
    target.write_text(text, encoding="utf-8")
    sys.stdout.write(f"wrote {target}, {len(text):,} bytes\n")


def installed_directory() -> Path:
    """SAELens's file where it is installed; SAELens itself, and what it needs, is not imported."""
    found = importlib.util.find_spec("sae_lens")
    if found is None or found.origin is None:
        raise MissingExtraError("sae_lens is not installed", advice="pip install --no-deps sae-lens, or name the file")
    return Path(found.origin).with_name(DIRECTORY)


def version_of(file: Path) -> str | None:
    """The version of the SAELens that a file belongs to, if it is installed or unpacked there."""
    folders = list(file.absolute().parents[1].glob("sae_lens-*.dist-info"))
    if folders:
        return folders[0].name.removeprefix("sae_lens-").removesuffix(".dist-info")
    try:
        return importlib.metadata.version("sae-lens")
    except importlib.metadata.PackageNotFoundError:
        return None


def read(file: Path) -> Mapping[str, Any]:
    """SAELens's directory. Raises `MissingExtraError` without PyYAML and `SourceError` for anything else."""
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("SAELens's directory is YAML", advice="pip install pyyaml") from error
    # The compiled parser, where PyYAML has it, is five times as fast.
    content = yaml.load(file.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(content, dict) or not all(isinstance(value, dict) and "saes" in value for value in content.values()):
        raise SourceError(f"{file}", expected="releases with their SAEs")
    return content


def catalogue_of(directory: Mapping[str, Any], version: str | None) -> str:
    """The text of the catalogue, one release a line."""
    releases = [_release(name, value) for name, value in sorted(directory.items())]
    n_saes = sum(len(release["saes"]) for release in releases)
    head = _json({"source": f"{DIRECTORY} of sae-lens {version}", "n_releases": len(releases), "n_saes": n_saes})
    return head[:-1] + ',"releases":[\n' + ",\n".join(map(_json, releases)) + "\n]}\n"


def _release(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    format_name = FORMATS[value.get("conversion_func")]
    # In one release, an SAE holds a copy of the whole release among its own facts; they are read and the copy is not.
    rows = [_row(name, format_name, value["repo_id"], facts) for facts in value["saes"]]
    common = {"release": name, "repo": value["repo_id"], "format": format_name, "model": MODELS.get(name, value["model"])}
    overrides = {"overrides": value["config_overrides"]} if value.get("config_overrides") else {}
    return common | overrides | {"saes": rows}


def _row(release: str, format_name: str, repo: str, facts: Mapping[str, Any]) -> list[Any]:
    """Identity and `COLUMNS` of an SAE. A layer of a cross-layer transcoder has a number for its path."""
    sae_id, path, neuronpedia_id = str(facts["id"]), str(facts["path"]), facts.get("neuronpedia")
    hook_name = hook_of(format_name, repo, sae_id, path)
    known = {
        "hook_name": hook_name,
        "layer": layer_of(format_name, hook_name, sae_id, path),
        "d_sae": width_of(release, sae_id, path, repo, neuronpedia_id),
        "l0": facts["l0"] if facts.get("l0") else l0_of(repo, path),
        "norm_scaling_factor": facts.get("norm_scaling_factor"),
        "variance_explained": facts.get("variance_explained"),
        "neuronpedia_id": neuronpedia_id,
    }
    row = [sae_id, None if path == sae_id else path, *(known[column] for column in COLUMNS)]
    while row[-1] is None and len(row) > 2:
        row.pop()
    return row


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    main()
