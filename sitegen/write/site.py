"""A whole site: data files of every SAE, then the pages that read them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sitegen.comparison import SiteComparison
from sitegen.contrast import SiteContrast
from sitegen.errors import MismatchError
from sitegen.records import FeatureId, FeatureRecord, FeatureTable, Manifest, ModelInfo, SaeInfo
from sitegen.training import SiteTraining
from sitegen.write.assets import write_assets
from sitegen.write.comparisons import comparison_assets, write_comparisons
from sitegen.write.contrasts import contrast_assets, write_contrasts
from sitegen.write.encode import gzip, to_json
from sitegen.write.output import MANIFEST, OutputDir
from sitegen.write.pages import Featured, SaePage, write_pages
from sitegen.write.shards import ShardWriter, strings
from sitegen.write.spool import RecordSpool
from sitegen.write.table import TableColumns, density_histogram, featured
from sitegen.write.token_text import Entry, Vocabulary
from sitegen.write.trainings import write_trainings

MAX_SHARED_VOCABULARY = 64_000
"""A larger vocabulary is too long a download for a first page; its strings travel with the shards."""
DOCUMENTS = "data/documents.json.gz"

Progress = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class SiteSize:
    """How large a site has become."""

    n_files: int
    n_bytes: int
    """Of all files together."""
    largest_file: tuple[str, int]
    """Path below the root, and bytes."""
    largest_shard: dict[str, int] = field(default_factory=dict)
    """Bytes of the largest shard, by SAE slug: what a cold feature view costs beyond shell and vocabulary."""


def write_site(
    out: OutputDir,
    manifest: Manifest,
    records: Mapping[str, Iterable[FeatureRecord]],
    vocabulary_entries: Mapping[str, Sequence[Entry] | None],
    documents: Sequence[str],
    progress: Progress | None = None,
    n_featured: int = 12,
    contrasts: Sequence[SiteContrast] = (),
    comparisons: Sequence[SiteComparison] = (),
    trainings: Sequence[SiteTraining] = (),
) -> SiteSize:
    """Write all files of a site.

    Args:
        out: an entered OutputDir.
        manifest: what is known before: counts of features, shard sizes, density histograms, featured features and the paths of
            vocabularies and documents are filled in. Features that an SAE already names as `featured` are kept.
        records: by SAE slug, ascending by id; read once, one at a time.
        vocabulary_entries: by model slug, one entry per token id; None where no texts are known.
        documents: names of the documents that examples point to.
        progress: called with the number of records finished since its last call.
        n_featured: features to begin with, of each SAE.
        contrasts: what gets a page beside the SAEs.
        comparisons: likewise.
        trainings: likewise.

    Raises:
        MismatchError: records of an SAE are missing, in no order, or name a document that does not exist.
        NonFiniteError: a number of a record is NaN or infinite.
        OutputError, DiskFullError: as `OutputDir`.
    """
    missing = [info.slug for info in manifest.saes if info.slug not in records]
    if missing:
        raise MismatchError(f"No records for the SAEs {', '.join(missing)}; the manifest names them.")
    models = [_with_vocabulary(out, model, vocabulary_entries.get(model.slug)) for model in manifest.models]
    shared = {model.slug for model in models if model.vocabulary}
    pages, largest = [], {}
    for info in manifest.saes:
        entries = vocabulary_entries.get(info.model)
        writer = _SaeWriter(out, info, entries, travels=entries is not None and info.model not in shared, documents=documents)
        page, largest[info.slug] = writer.write(records[info.slug], progress, n_featured)
        pages.append(page)
    if documents:
        out.write(DOCUMENTS, gzip(to_json(list(documents))))
    corpus = dataclasses.replace(manifest.corpus, documents=DOCUMENTS if documents else None)
    written = dataclasses.replace(
        manifest,
        models=models,
        corpus=corpus,
        saes=[page.info for page in pages],
        contrasts=[contrast.info() for contrast in contrasts],
        comparisons=[comparison.info() for comparison in comparisons],
        trainings=[training.info() for training in trainings],
    )
    out.write(MANIFEST, to_json(written))
    extra = (dict(contrast_assets()) if contrasts else {}) | (dict(comparison_assets()) if comparisons else {})
    assets = write_assets(out, extra)
    write_pages(out, written, pages, assets)
    write_contrasts(out, written, pages, contrasts, assets)
    write_comparisons(out, written, pages, comparisons, assets)
    write_trainings(out, written, pages, trainings, assets)
    biggest = max(out.sizes.items(), key=lambda item: item[1])
    return SiteSize(len(out.sizes), out.n_bytes, biggest, largest)


@dataclass(frozen=True)
class _SaeWriter:
    out: OutputDir
    info: SaeInfo
    entries: Sequence[Entry] | None
    travels: bool
    documents: Sequence[str]

    def write(self, records: Iterable[FeatureRecord], progress: Progress | None, n_featured: int) -> tuple[SaePage, int]:
        """Write the data files of one SAE; return what its pages show, and the bytes of its largest shard."""
        vocabulary = Vocabulary(self.entries)
        columns = TableColumns()
        with self.out.scratch(f"{self.info.slug}.records") as file:
            spool = RecordSpool(file)
            for record in records:
                self._check(record)
                spool.append(record)
                columns.add(record)
                if progress is not None:
                    progress(1)
            top_tokens = [token for token in columns.top_token if token is not None]
            table = columns.table(strings(top_tokens, vocabulary) if self.travels else None)
            self.out.write(f"data/{self.info.slug}/features.json.gz", gzip(to_json(table)))
            labels = {feature: text for feature, text in zip(table.id, table.label, strict=True) if text}
            shards = ShardWriter(spool, labels, self.documents, vocabulary if self.travels else None)
            size = shards.shard_size()
            largest = shards.write(self.out, self.info.slug, size)
            chosen = list(self.info.featured) or featured(columns, n_featured)
            shown = [Featured.of(spool.read(feature), vocabulary) for feature in self._present(chosen, table)]
        texts = dict(zip(table.id, table.label, strict=True))
        return SaePage(self._complete(table, size, chosen), shown, texts), largest

    def _complete(self, table: FeatureTable, shard_size: int, chosen: list[FeatureId]) -> SaeInfo:
        return dataclasses.replace(
            self.info,
            n_features=len(table.id),
            n_dead=sum(density == 0 for density in table.density),
            shard_size=shard_size,
            density_histogram=density_histogram(table.density),
            featured=self._present(chosen, table),
            strings_in_shards=self.travels,
        )

    def _check(self, record: FeatureRecord) -> None:
        if not 0 <= record.id < self.info.d_sae:
            raise MismatchError(f"{self.info.slug}: a record has the id {record.id}, but d_sae is {self.info.d_sae}.")
        for group in record.groups or ():
            for example in group.examples:
                if self.documents and not 0 <= example.document < len(self.documents):
                    raise MismatchError(
                        f"{self.info.slug}: an example of feature {record.id} comes from document {example.document}, but "
                        f"there are {len(self.documents)}."
                    )

    def _present(self, features: Iterable[FeatureId], table: FeatureTable) -> list[FeatureId]:
        present = set(table.id)
        return [feature for feature in features if feature in present]


def _with_vocabulary(out: OutputDir, model: ModelInfo, entries: Sequence[Entry] | None) -> ModelInfo:
    """Write a model's vocabulary unless it is too large to share or unknown."""
    if entries is None or len(entries) > MAX_SHARED_VOCABULARY:
        return dataclasses.replace(model, vocabulary=None)
    path = f"data/{model.slug}/vocabulary.json.gz"
    out.write(path, gzip(to_json(list(entries))))
    return dataclasses.replace(model, vocabulary=path)
