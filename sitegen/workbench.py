"""Where the stages of a plan are carried out: the LM and the SAEs, loaded when first needed, and one method a stage.

Every method leaves its stage done and returns what later stages read. A stage that is done already is only opened.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch

import sae_fast
from sae_fast.activations import ActivationStore
from sae_fast.corpus import open_corpus
from sae_fast.corpus.batch import Batch, check_tokens
from sae_fast.corpus.options import local_path
from sae_fast.corpus.tokenise import Tokeniser, choose_prefix, write_tokens
from sae_fast.corpus.tokens import TokenDataset
from sae_fast.evaluation import evaluate, n_passes
from sae_fast.files import reported_full, write_whole
from sae_fast.lm import LanguageModel
from sitegen import collect, facts
from sitegen.activation_index import ActivationIndex, ActivationIndexWriter
from sitegen.plan import Plan, SaePlan, slugified
from sitegen.progress import Progress
from sitegen.record_files import RecordFiles
from sitegen.records import Metrics, ModelInfo
from sitegen.release import SaeOptions
from sitegen.stages import Stage, StageReport
from sitegen.vocabulary import Vocabulary

MODEL_FILE = "model.json"
VOCABULARY_FILE = "vocabulary.json"
METRICS_FILE = "metrics.json"


class Workbench:
    """The inputs of one plan, and its stages."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan, self.release, self.progress = plan, plan.release, progress
        self._saes: dict[str, sae_fast.SAE] = {}

    @cached_property
    def lm(self) -> LanguageModel:
        """The LM, loaded at first use."""
        model = self.release.model
        with _quiet_if(not self.progress.enabled or local_path(model.source) is not None):
            return sae_fast.lm.load(
                model.source, backend=model.backend, device=model.device, dtype=model.dtype, **model.arguments
            )

    def sae(self, plan: SaePlan) -> sae_fast.SAE:
        """Return an SAE of the plan, loaded at first use."""
        if plan.slug not in self._saes:
            self._saes[plan.slug] = load_sae(plan.options, self.release.model.device)
        return self._saes[plan.slug]

    def model(self, report: StageReport) -> tuple[ModelInfo, Vocabulary]:
        """Load the LM where any stage needs it, check that the SAEs fit it, and return what the site says about it."""
        stage = self.plan.model
        report.skipped = not self.plan.needs_lm
        if self.plan.needs_lm:
            for sae in (sae for sae in self.plan.saes if not sae.is_done):
                collect.check_fit(self.lm, sae.slug, self.sae(sae), sae.hook_name)
        if not stage.is_done:
            folder = stage.begin()
            with reported_full(folder / VOCABULARY_FILE):
                Vocabulary.from_tokenizer(self.lm.tokenizer, self.lm.d_vocab).to_file(folder / VOCABULARY_FILE)
            write_whole(folder / MODEL_FILE, json.dumps(_about_model(self.lm)).encode())
            stage.finish()
        about = json.loads((stage.folder / MODEL_FILE).read_text(encoding="utf-8"))
        name = self.release.model.name or self.release.model.source.rstrip("/").rpartition("/")[2]
        report.detail = f"{name}, d_model {about['d_model']:,}, {about['d_vocab']:,} tokens of vocabulary"
        report.n_bytes = stage.n_bytes
        return ModelInfo(slug=slugified(name), name=name, **about), Vocabulary.from_file(stage.folder / VOCABULARY_FILE)

    def tokens(self, report: StageReport) -> TokenDataset:
        """Tokenise the corpus."""
        stage, options = self.plan.tokens, self.release.corpus
        report.skipped = stage.is_done
        if not stage.is_done:
            corpus = open_corpus(options, self.plan.every)
            tokenizer = self.lm.tokenizer
            trained_with = [sae.cfg.prepend_bos for sae in self.plan.saes]
            prefix = choose_prefix(tokenizer, options.prepend_bos, trained_with, corpus.is_chat)
            tokeniser = Tokeniser(tokenizer, options.context_length, prefix, options.count_special, options.roles)
            with self.progress.step("tokens", corpus.n_documents, "documents") as advance:
                dataset = write_tokens(stage.begin(), corpus, tokeniser, options.max_tokens, advance)
            check_tokens(dataset, self.lm.n_ctx, self.lm.d_vocab)
            stage.finish()
            for verb, n in (("left out", corpus.n_skipped), ("repaired", corpus.n_replaced)):
                if n:
                    self.progress.say(f"{n:,} documents with text that cannot be encoded were {verb}.")
        dataset = TokenDataset.open(stage.folder)
        report.detail = f"{dataset.n_counted:,} tokens, {dataset.n_contexts:,} contexts, {len(dataset.documents):,} documents"
        report.n_bytes = stage.n_bytes
        return dataset

    def evaluation(self, report: StageReport, dataset: TokenDataset) -> Mapping[str, Metrics | None]:
        """Measure every SAE that has not been measured."""
        stages = {sae.slug: sae.evaluation for sae in self.plan.saes if sae.evaluation is not None}
        pending = [sae for sae in self.plan.saes if sae.slug in stages and not stages[sae.slug].is_done]
        report.skipped = not pending
        if pending:
            batches = _spread_batches(dataset, self.release.evaluation.tokens, self.release.build.batch_size)
            saes = {sae.slug: self.sae(sae) for sae in pending}
            with self.progress.step("evaluation", n_passes(saes, len(batches)), "passes of the LM") as advance:
                results = evaluate(self.lm, saes, batches, progress=advance)
            for sae in pending:
                _save_metrics(stages[sae.slug], results[sae.slug])
        metrics = {slug: Metrics(**json.loads((stage.folder / METRICS_FILE).read_text())) for slug, stage in stages.items()}
        n_tokens = max((found.n_tokens for found in metrics.values()), default=0)
        report.detail = f"{len(metrics)} SAEs on {n_tokens:,} tokens" if metrics else "left out"
        return metrics

    def activations(self, report: StageReport, dataset: TokenDataset) -> Mapping[str, ActivationIndex]:
        """Run the LM over the dataset for every SAE that lacks its index."""
        pending = [sae for sae in self.plan.saes if not sae.activations.is_done]
        report.skipped = not pending
        if pending:
            targets = [self._target(sae, dataset) for sae in pending]
            build = self.release.build
            with self.progress.step("activations", dataset.n_contexts, "contexts") as advance:
                collect.collect(self._read(dataset), dataset, targets, build.batch_size, build.part_tokens, advance)
            for sae in pending:
                sae.activations.finish()
        indexes = {sae.slug: ActivationIndex.open(sae.activations.folder) for sae in self.plan.saes}
        report.detail = f"{sum(index.nnz for index in indexes.values()):,} activations of {len(indexes)} SAEs"
        report.n_bytes = sum(sae.activations.n_bytes for sae in self.plan.saes)
        return indexes

    def _read(self, dataset: TokenDataset) -> collect.Read:
        stored = self.release.build.activations
        return collect.from_model(self.lm) if stored is None else collect.from_store(ActivationStore.open(stored), dataset)

    def facts(
        self, report: StageReport, dataset: TokenDataset, indexes: Mapping[str, ActivationIndex], vocabulary: Vocabulary
    ) -> Mapping[str, RecordFiles]:
        """Compute the records of every feature that has none."""
        files = {sae.slug: RecordFiles(sae.facts.folder, sae.features(self.plan.features)) for sae in self.plan.saes}
        pending = [sae for sae in self.plan.saes if not sae.facts.is_done]
        report.skipped = not pending
        for sae in pending:
            sae.facts.begin()
            missing = files[sae.slug].missing()
            with self.progress.step(f"facts of {sae.slug}", len(missing), "features") as advance:
                records = facts.compute(
                    indexes[sae.slug],
                    dataset,
                    self.sae(sae),
                    self.lm.unembed(),
                    vocabulary,
                    self.release.facts,
                    features=missing,
                    progress=advance,
                )
                files[sae.slug].write(records)
            sae.facts.finish()
        report.detail = f"{sum(len(records.ids) for records in files.values()):,} features"
        report.n_bytes = sum(sae.facts.n_bytes for sae in self.plan.saes)
        return files

    def _target(self, sae: SaePlan, dataset: TokenDataset) -> collect.Target:
        stage = sae.activations
        writer = ActivationIndexWriter(
            stage.begin(), sae.cfg.d_sae, dataset.context_length, dataset.n_positions, stage.fingerprint
        )
        return collect.Target(sae.slug, self.sae(sae), sae.hook_name, writer)


def load_sae(options: SaeOptions, device: str) -> sae_fast.SAE:
    """Load one SAE of a release."""
    return sae_fast.load(
        options.source,
        device=device,
        dtype=options.dtype,
        fold_decoder_norm=options.fold_decoder_norm,
        hook_name=options.hook_name,
        hook_names=options.hook_names,
    )


@contextmanager
def _quiet_if(quiet: bool) -> Iterator[None]:
    """Hide the bars of transformers, which are worth seeing for a download only."""
    from transformers.utils import logging

    if not quiet or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _about_model(lm: LanguageModel) -> dict[str, Any]:
    """Return the fields of ModelInfo that come from the LM itself."""
    layers = {name.split(".")[1] for name in lm.hook_names() if name.startswith("blocks.")}
    return {
        "architecture": type(getattr(lm, "model", lm)).__name__,
        "d_model": lm.d_model,
        "d_vocab": lm.d_vocab,
        "n_layers": len(layers) or None,
    }


def _spread_batches(
    dataset: TokenDataset, n_tokens: int, batch_size: int
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return `(token_ids, is_counted, attention_mask)` of evenly spread contexts that hold about `n_tokens` counted tokens."""
    n_contexts = min(max(round(dataset.n_contexts * n_tokens / dataset.n_counted), 1), dataset.n_contexts)
    contexts = np.arange(n_contexts) * dataset.n_contexts // n_contexts
    batches = []
    for first in range(0, n_contexts, batch_size):
        batch = Batch.of(dataset, contexts[first : first + batch_size])
        batches.append((batch.token_ids, batch.is_counted, batch.attention_mask))
    return batches


def _save_metrics(stage: Stage, result: Any) -> None:
    folder = stage.begin()
    metrics = Metrics(**{field.name: getattr(result, field.name) for field in fields(Metrics)})
    write_whole(folder / METRICS_FILE, json.dumps(asdict(metrics)).encode())
    stage.finish()
