"""The recipe: from a release to a site. `sitegen.build` is the `build` below; `sitegen.run` carries out its plan.

This much costs nothing where a site is up to date: neither torch nor a model is loaded before that is known.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import sae_fast
import site_templates
from sae_fast.corpus import corpus_fingerprint
from sae_fast.files import content_fingerprint, fingerprint, source_fingerprint
from sitegen.progress import Progress
from sitegen.records import FeatureId
from sitegen.release import DEMO, Release
from sitegen.report import BuildReport, peak_memory_bytes
from sitegen.stages import locked
from sitegen.training import training_report
from sitegen.write import OutputDir
from sitegen.write.output import MANIFEST, is_ours

PACKAGE = Path(__file__).parent


def build(
    release: Release | Path | str,
    out: Path | str = "site",
    *,
    cache: Path | str | None = None,
    features: Sequence[FeatureId] | None = None,
    progress: Progress | bool = True,
    force: bool = False,
) -> BuildReport:
    """Build the site of a release.

    Args:
        release: path of a release file, `"demo"`, or a `Release`.
        out: folder of the site; replaced whole when the new site is complete, untouched until then.
        cache: folder of finished stages, default `.sitegen/<name>` beside the release file. The same call after an interruption
            continues with what is there.
        features: build the records of these features only.
        progress: whether to show progress on standard error.
        force: write the site again even if `out` is up to date.

    Raises:
        SitegenError, sae_fast.errors.SaeFastError: bad input; nothing has been written to `out` then.
    """
    started = time.perf_counter()
    release = release if isinstance(release, Release) else Release.load(release)
    out = Path(out)
    show = progress if isinstance(progress, Progress) else Progress(progress)
    check_output(out)
    identity = build_id(release, features)
    if not force and built_as(out) == identity:
        return BuildReport(out, identity, (), time.perf_counter() - started, peak_memory_bytes())
    # The first import that needs torch.
    from sitegen.plan import make_plan
    from sitegen.run import run

    with locked(Path(cache) if cache is not None else default_cache(release)) as folder:
        plan = make_plan(release, folder, features)
        report = run(plan, out, identity, show)
        return replace(report, seconds=time.perf_counter() - started)


def default_cache(release: Release) -> Path:
    """Return where the stages of a release are kept: beside its file, or in the current folder for the demo."""
    if release.path is None:
        return Path.cwd() / ".sitegen" / "release"
    if release.path == DEMO.resolve():
        return Path.cwd() / ".sitegen" / "demo"
    return release.path.parent / ".sitegen" / release.path.stem


def check_output(out: Path) -> None:
    """Raise OutputError or NotOurFolderError where no site could be written to `out`: hours before it is."""
    with suppress(_LeaveUnwrittenError), OutputDir(out):
        raise _LeaveUnwrittenError


def build_id(release: Release, features: Sequence[FeatureId] | None = None) -> str:
    """Return a fingerprint of everything that a site is made from, the code and the templates included."""
    content = asdict(release) | {"path": None}
    sources = {"corpus": corpus_fingerprint(release.corpus), "model": source_fingerprint(release.model.source)}
    for table, source in sources.items():
        content[table]["source"] = [Path(content[table]["source"]).name, source]
    for table in (*content["sae"], *content["contrast"], *content["comparison"]):
        table["source"] = source_fingerprint(table["source"])
    for table, options in zip(content["sae"], release.sae, strict=True):
        report = training_report(options)
        table["training_report"] = None if report is None else [report.parent.name, content_fingerprint(report)]
    code = [content_fingerprint(Path(path)) for module in (sae_fast, site_templates) for path in module.__path__]
    code += [content_fingerprint(path) for path in sorted(PACKAGE.iterdir()) if path.name not in ("demo", "__pycache__")]
    return fingerprint([content, None if features is None else sorted(set(features)), code])


def built_as(out: Path) -> str | None:
    """Return the build id of the site in `out`, or None where there is none."""
    if not is_ours(out):
        return None
    found: str | None = json.loads((out / MANIFEST).read_text(encoding="utf-8")).get("build_id")
    return found


class _LeaveUnwrittenError(Exception):
    """Leaves an OutputDir without putting anything in place."""
