"""The report: what it shows of metrics and results."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from sae_fast.training.charts import Line, histogram, line_chart, short
from sae_fast.training.finish import density_histogram
from sae_fast.training.report import render

RESULT = {
    "n_tokens": 1000,
    "explained_variance": 0.8123,
    "mse": 12.5,
    "l0": 31.9,
    "never_active": 3,
    "n_features": 64,
    "density": [0] * 40 + [61] + [0] * 7,
}


def line(name: str, step: int, **terms: float) -> dict[str, Any]:
    given = {"sae": name, "step": step, "tokens": step * 100, "loss": 50 / step, "terms": {"mse": 40 / step, **terms}}
    return given | {"explained_variance": 1 - 1 / step, "l0": 32.0, "n_dead": 5, "lr": 1e-3}


def metrics(*names: str) -> dict[str, list[dict[str, Any]]]:
    return {name: [line(name, step, **({"aux": 1.0} if name != "a" else {})) for step in range(1, 30)] for name in names}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "line", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_has_every_curve_and_result() -> None:
    """A curve of each SAE in each chart, terms where they are, numbers of the results; no script, every tag closed."""
    page = render("my-run", metrics("a", "b<"), {"a": RESULT})

    parser = _Tags()
    parser.feed(re.sub(r"<line[^>]*/>", "", page))
    assert parser.open == []
    assert "script" not in parser.tags
    for heading in ("Loss", "Explained variance", "L0: active", "Dead features", "Learning rate", "Part of the loss: mse"):
        assert f"<h2>{heading}" in page
    assert page.count("<title>a</title>") == 7
    assert page.count("<title>b&lt;</title>") == 7
    assert "<td>0.8123</td><td>31.90</td><td>12.5</td><td>3 of 64</td><td>1,000</td>" in page
    assert "2 SAEs, 2,900 activations seen, finished" in page
    assert "http" not in page


def test_a_page_of_a_run_that_has_just_begun() -> None:
    """Nothing yet, and one line."""
    assert "0 SAEs, 0 activations seen, in training" in render("r", {}, {})
    assert "<polyline" in render("r", {"a": [line("a", 1)]}, {})


def test_settings_are_shown_without_the_paths_of_a_machine() -> None:
    """Each table with what was set, escaped; of a source on a disk its last part, of one on a hub all."""
    config = {
        "model": {"source": "/home/me/models/<m>", "name": None, "arguments": {}},
        "corpus": {"source": "owner/texts", "shuffle": True},
        "sae": {"a": {"architecture": "topk", "k": 4}},
    }
    page = render("r", {}, {}, config)

    assert '[model]\nsource = "&lt;m&gt;"\n\n[corpus]\nsource = "owner/texts"\nshuffle = true\n' in page
    assert '[[sae]]\nname = "a"\narchitecture = "topk"\nk = 4</pre>' in page
    assert "/home/me" not in page
    assert "Settings" not in render("r", {}, {})


def test_curves_lie_where_their_values_are() -> None:
    """The first and last point are at the ends, higher values higher up; many points are thinned, the last one kept."""
    svg = line_chart([Line("a", 0, list(range(1, 5001)), [float(i) for i in range(5000)])])

    (points,) = re.findall(r'points="([^"]+)"', svg)
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert len(places) <= 302
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert places[-1][0] == pytest.approx(368, abs=0.1)


def test_a_constant_and_no_values_are_drawn_too() -> None:
    """Without dividing by zero; infinite values are left out."""
    assert "polyline" in line_chart([Line("a", 0, [1, 2], [3.0, 3.0])])
    assert "polyline" in line_chart([Line("a", 0, [1, 2], [-5.0, -7.0])], low=0.0, high=1.0)
    assert line_chart([Line("a", 0, [], [])]) == ""
    assert line_chart([Line("a", 0, [1], [float("nan")])]) == ""
    assert histogram([Line("a", 0, [], [])], "x") == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.05, "0.05"),
        (3e-5, "3e-5"),
        (7.5e-4, "7.5e-4"),
        (1e-3, "1e-3"),
        (12_000, "12k"),
        (3.5e6, "3.5M"),
        (2e9, "2G"),
    ],
)
def test_labels_are_short(value: float, text: str) -> None:
    """As people write them."""
    assert short(value) == text


def test_densities_fall_into_their_decade() -> None:
    """Eight bins each; features that were never active are left out."""
    counts = density_histogram(torch.tensor([0, 1, 10, 1000, 1000]), 1000)

    assert len(counts) == 48
    assert (counts[24], counts[32], counts[47]) == (1, 1, 2)
    assert sum(counts) == 4
