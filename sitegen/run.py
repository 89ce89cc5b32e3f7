"""Carrying out a plan, top to bottom: every stage that is not done, then the site."""

from collections.abc import Mapping
from pathlib import Path

import sae_fast
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.files import folder_size
from sitegen.facts.decoder import hooks_of
from sitegen.plan import Plan
from sitegen.progress import Progress
from sitegen.record_files import RecordFiles
from sitegen.records import CorpusInfo, Manifest, Metrics, ModelInfo, SaeInfo
from sitegen.report import BuildReport, peak_memory_bytes
from sitegen.stages import Timings
from sitegen.workbench import Workbench
from sitegen.write import OutputDir, write_site

GENERATOR = f"sitegen {sae_fast.__version__}"


def run(plan: Plan, out: Path, identity: str, progress: Progress) -> BuildReport:
    """Do every stage of the plan that is not done, then write the site to `out` under the build id `identity`."""
    bench, timings = Workbench(plan, progress), Timings()
    with timings.time("model") as report:
        model, vocabulary = bench.model(report)
    with timings.time("tokens") as report:
        dataset = bench.tokens(report)
    with timings.time("evaluation") as report:
        metrics = bench.evaluation(report, dataset)
    with timings.time("activations") as report:
        indexes = bench.activations(report, dataset)
    with timings.time("facts") as report:
        records = bench.facts(report, dataset, indexes, vocabulary)
    with timings.time("site") as report, OutputDir(out) as output:
        manifest = make_manifest(plan, identity, model, dataset, metrics, records)
        n_records = sum(len(files.ids) for files in records.values())
        with progress.step("site", n_records, "features") as advance:
            size = write_site(
                output,
                manifest,
                {slug: files.read() for slug, files in records.items()},
                {model.slug: vocabulary.entries},
                dataset.documents,
                advance,
                plan.release.site.featured,
                plan.contrasts,
                plan.comparisons,
                plan.trainings,
            )
        report.detail, report.n_bytes = f"{size.n_files:,} files", size.n_bytes
    cache = plan.tokens.cache
    cache_bytes, used = folder_size(cache), sum(stage.n_bytes for stage in plan.stages)
    return BuildReport(
        out=out,
        build_id=identity,
        stages=tuple(timings.stages),
        seconds=sum(stage.seconds for stage in timings.stages),
        peak_memory_bytes=peak_memory_bytes(),
        n_files=size.n_files,
        n_bytes=size.n_bytes,
        cache=cache,
        cache_bytes=cache_bytes,
        cache_unused_bytes=cache_bytes - used,
    )


def make_manifest(
    plan: Plan,
    identity: str,
    model: ModelInfo,
    dataset: TokenDataset,
    metrics: Mapping[str, Metrics | None],
    records: Mapping[str, RecordFiles],
) -> Manifest:
    """Return what is known of the site before its data are written; `write_site` fills in the rest."""
    site, made_from = plan.release.site, (dataset.info or {}).get("made_from", {})
    corpus = CorpusInfo(
        name=made_from.get("corpus", plan.release.corpus.source),
        n_documents=len(dataset.documents),
        n_contexts=dataset.n_contexts,
        n_tokens=dataset.n_counted,
        context_length=dataset.context_length,
    )
    saes = [
        SaeInfo(
            slug=sae.slug,
            name=sae.name,
            model=model.slug,
            hook_name=sae.hook_name,
            architecture=sae.cfg.architecture,
            d_in=sae.cfg.d_in,
            d_sae=sae.cfg.d_sae,
            n_features=len(records[sae.slug].ids),
            n_dead=0,
            n_tokens=dataset.n_counted,
            shard_size=0,
            k=sae.cfg.k,
            folded=sae.options.fold_decoder_norm,
            metrics=metrics.get(sae.slug),
            hook_names=list(sae.cfg.hook_names),
            decoder_hooks=list(hooks_of(sae.cfg)),
        )
        for sae in plan.saes
    ]
    return Manifest(site.title, site.description, identity, GENERATOR, [model], corpus, saes, site.citation)
