"""A preview: one percent of the corpus through the whole build, in a temporary folder, and what the whole would cost."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sae_fast.corpus import Corpus, Document, open_corpus
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.progress import duration, size
from sitegen.activation_index import ActivationIndex
from sitegen.errors import ReleaseError
from sitegen.plan import Plan, make_plan
from sitegen.progress import Progress
from sitegen.recipe import build_id
from sitegen.record_files import RecordFiles
from sitegen.records import FeatureId, FeatureRecord
from sitegen.release import Release
from sitegen.report import BuildReport
from sitegen.run import run
from sitegen.write.encode import gzip, to_json

SHARE = 100
"""One document in so many."""
MIN_TOKENS = 20_000
"""A sample below this says little."""
CHARACTERS_PER_TOKEN = 4
BYTES_PER_ACTIVATION = 24
"""Memory of one activation while its part is collected: CSR, CSC and their copies."""
SECONDS_PER_ACTIVATION = 4e-7
"""Of the facts that scan the activations, on one core; the rest of the facts does not depend on the corpus."""


@dataclass(frozen=True)
class Estimate:
    """What the whole build would cost on this machine, from a sample of the corpus."""

    sample_tokens: int
    total_tokens: int
    """of the whole corpus; itself an estimate unless the sample was the whole"""
    seconds: float
    peak_memory_bytes: int
    cache_bytes: int
    site_bytes: int
    sample: BuildReport
    """the build of the sample"""

    def table(self) -> str:
        """Return the estimates as text."""
        sample = f"{self.sample_tokens:,} of about {self.total_tokens:,} tokens"
        lines = [
            f"Preview: {sample} went through the whole build in {duration(self.sample.seconds)}.",
            "The whole corpus would take about",
            f"  time     {duration(self.seconds)}",
            f"  memory   {size(self.peak_memory_bytes)}",
            f"  cache    {size(self.cache_bytes)}",
            f"  site     {size(self.site_bytes)}",
        ]
        return "\n".join(lines)


def preview(
    release: Release | Path | str, *, features: list[FeatureId] | None = None, progress: Progress | None = None
) -> Estimate:
    """Build the site of a sample in a temporary folder, remove it, and estimate the whole.

    Raises ReleaseError for a streamed corpus without `max_tokens`: nobody knows how long it is.
    """
    release = release if isinstance(release, Release) else Release.load(release)
    sampled, every = sample_of(release)
    with _temporary_folder() as folder:
        plan = make_plan(sampled, folder / "cache", features, every)
        report = run(plan, folder / "site", build_id(sampled, features), progress or Progress(False))
        return _estimate(release, plan, report)


def sample_of(release: Release) -> tuple[Release, int]:
    """Return a release that reads about one percent of the corpus, and the `every` of its plan."""
    corpus = open_corpus(release.corpus)
    most = release.corpus.max_tokens
    if corpus.n_documents is None:
        if most is None:
            raise ReleaseError(
                "A preview of a streamed corpus needs [corpus] max_tokens: the corpus does not say how long it is."
            )
        every = 1
    else:
        every = _every(corpus)
    if most is None:
        return release, every
    few = min(most, max(most // SHARE, MIN_TOKENS))
    return replace(release, corpus=replace(release.corpus, max_tokens=few)), every


def _every(corpus: Corpus) -> int:
    every = SHARE
    while every > 1:
        sample = Corpus(corpus.rows, corpus.options, every)
        n_tokens = sum(_characters(document) for document in sample) / CHARACTERS_PER_TOKEN
        if n_tokens >= MIN_TOKENS:
            return every
        every = max(every // 2, 1)
    return every


def _characters(document: Document) -> int:
    content = document.content
    return len(content) if isinstance(content, str) else sum(len(message.content) for message in content)


def _estimate(release: Release, plan: Plan, report: BuildReport) -> Estimate:
    dataset = TokenDataset.open(plan.tokens.folder)
    total = _total_tokens(release, plan, dataset)
    scale = max(total / dataset.n_counted, 1.0)
    seconds = {stage.name: stage.seconds for stage in report.stages}
    nnz = [ActivationIndex.open(sae.activations.folder).nnz for sae in plan.saes]
    record_bytes, full_record_bytes = _record_bytes(plan)
    growth = full_record_bytes / record_bytes
    evaluated = min(release.evaluation.tokens, dataset.n_counted) or 1
    n_records = sum(len(sae.features(plan.features)) for sae in plan.saes)
    more_positions = min(dataset.n_positions * scale, release.build.part_tokens) - min(
        dataset.n_positions, release.build.part_tokens
    )
    return Estimate(
        sample_tokens=dataset.n_counted,
        total_tokens=total,
        seconds=seconds["model"]
        + seconds["tokens"] * scale
        + seconds["evaluation"] * min(release.evaluation.tokens, total) / evaluated
        + seconds["activations"] * scale
        + seconds["facts"] * growth
        + sum(nnz) * (scale - 1) * SECONDS_PER_ACTIVATION
        + seconds["site"] * growth,
        peak_memory_bytes=round(
            report.peak_memory_bytes + more_positions * sum(nnz) / dataset.n_positions * BYTES_PER_ACTIVATION
        ),
        cache_bytes=round(
            plan.tokens.n_bytes * scale
            + sum(sae.activations.n_bytes for sae in plan.saes) * scale
            + n_records * full_record_bytes
        ),
        site_bytes=round(report.n_bytes + n_records * (full_record_bytes - record_bytes)),
        sample=report,
    )


def _total_tokens(release: Release, plan: Plan, dataset: TokenDataset) -> int:
    n_documents = open_corpus(release.corpus).n_documents
    most = release.corpus.max_tokens
    if n_documents is None:
        return most or dataset.n_counted
    last = int(dataset.document[-1]) + 1
    total = round(dataset.n_counted / last * n_documents) if plan.every > 1 else dataset.n_counted
    return total if most is None else min(total, most)


def _record_bytes(plan: Plan) -> tuple[float, float]:
    """Return the mean compressed size of a record of the sample, and that of a record with all its examples."""
    n_examples = plan.release.facts.examples
    all_sizes, full_sizes = [], []
    for sae in plan.saes:
        ids = sae.features(plan.features)
        for number, record in enumerate(RecordFiles(sae.facts.folder, ids).read()):
            # One in sixteen is enough for a mean, and compressing all would take as long as writing the site.
            if len(ids) <= 256 or number % 16 == 0:
                n_bytes = len(gzip(to_json(record)))
                all_sizes.append(n_bytes)
                if _n_top(record) >= n_examples:
                    full_sizes.append(n_bytes)
    mean = sum(all_sizes) / len(all_sizes)
    return mean, max(sum(full_sizes) / len(full_sizes) if full_sizes else max(all_sizes), mean)


def _n_top(record: FeatureRecord) -> int:
    return sum(len(group.examples) for group in record.groups or () if group.kind == "top")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sitegen-preview-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
