"""Labels by rule: planted patterns are found, and their precision and recall are what a count gives."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute_force import write_index

from sae_fast.corpus.tokens import TokenDataset
from sitegen.explain.halves import LabelCorpus
from sitegen.explain.labeller import Labeller
from sitegen.facts.activations import read_ranges
from sitegen.records import Histogram, Label, Logits
from sitegen.vocabulary import Vocabulary

N_DOCUMENTS = 120
LENGTH = 32
PIECE = re.compile(r"\n *| ?[A-Za-z_]+| ?[0-9]|.", re.DOTALL)
NAMES = ["value", "node", "Path", "MAX_SIZE", "index", "ValueError", "other_name", "key"]


def _document(rng: np.random.Generator) -> str:
    """A little Python, random but with the habits of real code."""

    def name() -> str:
        return str(rng.choice(NAMES))

    kinds = (
        lambda: f"import {name()}\n",
        lambda: f"from {name()} import {name()}, {name()}\n",
        lambda: f"{name()} = {rng.integers(10)}{rng.integers(10)}\n",
        lambda: f"    self.{name()} = {name()}({rng.integers(10)}, {name()})\n",
        lambda: f"        return {name()}[{name()}]  # the {name()} of {name()}\n",
        lambda: f"    raise ValueError('no {name()} here')\n",
        lambda: f"if {name()} == {rng.integers(10)}:\n        {name()}.{name()}()\n",
        lambda: f'"""The {name()} of a {name()}.\n\nIt is {name()}.\n"""\n',
    )
    return "".join(kinds[rng.integers(len(kinds))]() for _ in range(30))


class Planted:
    """A corpus of pieces of text, and features that fire where a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        ids: dict[str, int] = {"<bos>": 0}
        rows, kinds, documents, starts = [], [], [], []
        for document in range(N_DOCUMENTS):
            pieces = [ids.setdefault(piece, len(ids)) for piece in PIECE.findall(_document(rng))]
            for start in range(0, len(pieces), LENGTH - 1):
                row = [0, *pieces[start : start + LENGTH - 1]]
                kinds.append([2] + [1] * (len(row) - 1) + [0] * (LENGTH - len(row)))
                rows.append(row + [0] * (LENGTH - len(row)))
                documents.append(document)
                starts.append(start)
        self.dataset = TokenDataset(
            np.array(rows, np.int32),
            np.array(kinds, np.uint8),
            np.array(documents, np.int32),
            np.array(starts, np.int32),
            [],
            1,
        )
        self.texts = list(ids)
        self.vocabulary = Vocabulary(tuple(text.encode() for text in ids))
        self.counted = self.dataset.kind.reshape(-1) == 1
        tokens = self.dataset.tokens.reshape(-1)
        self.token = np.array([self.texts[token] for token in tokens])
        self.previous = np.concatenate([[""], self.token[:-1]])
        self.labeller = Labeller(self.dataset, self.vocabulary)

    def label(self, active: np.ndarray, values: np.ndarray | None = None, effects: Logits | None = None) -> Label | None:
        """Return the label of a feature that fires at `active [n_positions]`."""
        values = np.ones(len(active)) if values is None else values
        acts = (active * self.counted * values).astype(np.float32)[:, None]
        index = write_index(self.folder / str(len(list(self.folder.iterdir()))), acts, self.dataset, 50)
        (activations,) = read_ranges(index, np.array([0]))
        return self.labeller.labels(activations, [effects])[0]

    @property
    def held(self) -> np.ndarray:
        """Positions of the documents that labels are measured on."""
        return np.repeat(~LabelCorpus.choose(self.dataset, 10**9).fit, LENGTH)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return Planted(tmp_path_factory.mktemp("planted"))


def _line_of_each(planted: Planted) -> list[str]:
    """The line up to each position, as text."""
    lines, line, document = [], "", -1
    for position, text in enumerate(planted.token):
        context, offset = divmod(position, LENGTH)
        if offset == 0 and planted.dataset.document[context] != document:
            document, line = planted.dataset.document[context], ""
        if planted.dataset.kind[context, offset] == 1:
            lines.append(line if "\n" in text else line + text)
            line = "" if "\n" in text else line + text
        else:
            lines.append("")
    return lines


Where = Callable[[Planted], Any]

CASES: dict[str, tuple[Where, str, str]] = {
    "token": (lambda p: p.token == " import", "token", "` import`"),
    "tokens": (lambda p: np.isin(p.token, ["(", "[", "."]), "token", r"`[(.\[]`, `[(.\[]`, `[(.\[]`"),
    "previous": (lambda p: p.previous == " import", "previous", "after ` import`"),
    "pair": (lambda p: (p.token == ".") & (p.previous == "self"), "pair|previous", r"(`\.` )?after `self`"),
    "digits": (lambda p: np.char.isdigit(np.char.strip(p.token)), "shape", "numbers"),
    "newline": (lambda p: p.token == "\n" + 8 * " ", "token|newline", "`↵        `|newline, then indentation of 8"),
    "shape after": (
        lambda p: np.char.isdigit(np.char.strip(p.token)) & (p.previous == "=") & (p.token != "="),
        "shape after",
        "numbers after `=`",
    ),
    "line": (
        lambda p: [
            re.match(r"\s*raise\b", line) is not None and "\n" not in t
            for line, t in zip(_line_of_each(p), p.token, strict=True)
        ],
        "line",
        "`raise` lines",
    ),
    "comment": (
        lambda p: ["#" in line and t[0] != "\n" for line, t in zip(_line_of_each(p), p.token, strict=True)],
        "zone",
        "in comments",
    ),
    "position": (lambda p: np.arange(len(p.token)) % LENGTH == 1, "position", "the first token of a context"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_planted_pattern_is_found_and_predicts(planted: Planted, name: str) -> None:
    """Each family of rules finds a feature that fires just there, with high precision and recall."""
    where, rule, text = CASES[name]
    active = np.array(where(planted), dtype=bool)

    label = planted.label(active)

    assert label is not None
    assert label.source == "rule"
    assert re.fullmatch(rule, label.rule or "")
    assert re.fullmatch(text, label.text)
    assert label.precision is not None
    assert label.precision > 0.9
    assert label.recall is not None
    assert label.recall > 0.9
    assert label.n == int((active & planted.counted & planted.held).sum())


def test_precision_and_recall_are_counted_on_the_held_out_half(planted: Planted) -> None:
    """Precision is a share of tokens, recall a share of mass, both on documents that did not choose the rule."""
    rng = np.random.default_rng(1)
    is_import = planted.token == " import"
    active = (is_import & (rng.random(len(is_import)) < 0.8)) | (rng.random(len(is_import)) < 0.01)
    values = rng.lognormal(0, 1, len(is_import)) * np.where(is_import, 3, 1)

    label = planted.label(active, values)

    held = planted.held & planted.counted
    exact = np.abs(values.astype(np.float32).astype(np.float64))
    assert label is not None
    assert label.text == "` import`"
    assert label.precision == pytest.approx((active & is_import & held).sum() / (is_import & held).sum(), rel=5.1e-5)
    assert label.recall == pytest.approx(exact[active & is_import & held].sum() / exact[active & held].sum(), rel=5.1e-5)


def test_noise_has_no_label(planted: Planted) -> None:
    """A feature that fires at random gets no label."""
    assert planted.label(np.random.default_rng(2).random(len(planted.token)) < 0.03) is None


def test_a_pattern_of_the_fitting_half_alone_has_no_label(planted: Planted) -> None:
    """A rule that holds where it was chosen and fails where it is measured says nothing."""
    noise = np.random.default_rng(3).random(len(planted.token)) < 0.03
    active = np.where(planted.held, noise, planted.token == " import")

    assert planted.label(active) is None


def test_too_few_activations_have_no_label(planted: Planted) -> None:
    """A handful of activations is no evidence."""
    active = np.zeros(len(planted.token), dtype=bool)
    active[np.flatnonzero(planted.token == " import")[:9]] = True

    assert planted.label(active) is None
    assert planted.label(np.zeros_like(active)) is None


def test_a_dense_feature_without_a_rule_says_so(planted: Planted) -> None:
    """A feature active on a third of the tokens, at random, is called dense with its share."""
    label = planted.label(np.random.default_rng(4).random(len(planted.token)) < 0.33)

    assert label is not None
    assert label.rule == "dense"
    assert re.fullmatch(r"active on 3\d% of tokens", label.text)
    assert label.precision == pytest.approx(0.33, abs=0.02)
    assert label.recall == 1.0


def test_peaked_logits_are_a_fallback(planted: Planted) -> None:
    """Without a rule, tokens promoted far above all others are named; without a peak, nothing is said."""
    noise = np.random.default_rng(2).random(len(planted.token)) < 0.03
    token = planted.texts.index(" import")
    counts = [0] * 50
    counts[0], counts[49] = 5000, 1
    peaked = Logits(top=[(token, 9.0), (1, 0.1)], bottom=[], histogram=Histogram(-0.1, 9.0, counts))
    flat = Logits(top=[(token, 1.0)], bottom=[], histogram=Histogram(-1.0, 1.0, [10] * 50))

    label = planted.label(noise, effects=peaked)

    assert label is not None
    assert (label.rule, label.text) == ("promotes", "promotes ` import`")
    assert planted.label(noise, effects=flat) is None


def test_the_sign_does_not_matter(planted: Planted) -> None:
    """Negative activations (abstopk) count by their size."""
    active = planted.token == " import"

    assert planted.label(active, -2 * np.ones(len(active))) == planted.label(active, 2 * np.ones(len(active)))


def test_halves_share_no_document_and_hold_everything(planted: Planted) -> None:
    """Each document is on one side only; both sides are about half; a smaller corpus takes whole documents."""
    corpus = LabelCorpus.choose(planted.dataset, 10**9)
    fit = set(corpus.document[corpus.fit].tolist())

    assert fit.isdisjoint(corpus.document[~corpus.fit].tolist())
    assert 0.3 < len(fit) / N_DOCUMENTS < 0.7
    assert (corpus.row_of_context == np.arange(planted.dataset.n_contexts)).all()
    few = LabelCorpus.choose(planted.dataset, planted.dataset.n_positions // 4)
    assert 0 < few.tokens.size <= planted.dataset.n_positions // 4
    for document in set(few.document.tolist()):
        assert (few.document == document).sum() == (planted.dataset.document == document).sum()


def test_a_part_of_the_corpus_is_enough(planted: Planted) -> None:
    """Activations outside the documents that labels read are left out, and the label is the same."""
    labeller = Labeller(planted.dataset, planted.vocabulary, max_tokens=planted.dataset.n_positions // 2)
    acts = ((planted.token == " import") & planted.counted).astype(np.float32)[:, None]
    index = write_index(planted.folder / "part", acts, planted.dataset, 50)
    (activations,) = read_ranges(index, np.array([0]))

    label = labeller.labels(activations, [None])[0]

    assert label is not None
    assert label.text == "` import`"
    assert (label.precision, label.recall) == (1.0, 1.0)


def test_features_of_a_range_are_labelled_apart(planted: Planted) -> None:
    """Several features at once, a silent one among them, get the labels that each gets alone."""
    rng = np.random.default_rng(5)
    columns = [
        planted.token == " import",
        np.zeros(len(planted.token), bool),
        planted.previous == "(",
        rng.random(len(planted.token)) < 0.05,
    ]
    acts = (np.stack(columns, axis=1) * planted.counted[:, None]).astype(np.float32)
    index = write_index(planted.folder / "several", acts, planted.dataset, 50)
    (activations,) = read_ranges(index, np.arange(4))

    labels = planted.labeller.labels(activations, [None] * 4)

    assert labels == [planted.label(column) for column in columns]
    assert [label.text if label else None for label in labels] == ["` import`", None, "after `(`", None]


def test_no_label_is_longer_than_sixty_characters(planted: Planted) -> None:
    """Labels of many or long tokens are cut."""
    for attribute in (measured.attribute for measured in planted.labeller.measured):
        codes = list(range(min(attribute.n_codes, attribute.max_codes)))
        if codes:
            assert 0 < len(attribute.describe(codes)) <= 60
