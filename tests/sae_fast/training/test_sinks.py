"""Where metrics go: stand-ins for the services, what is missing, what fails. `tests/peer/test_sinks.py` has the real ones."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from sae_fast.errors import MissingExtraError
from sae_fast.training import RunConfig, run, train
from sae_fast.training.config import OutputOptions
from sae_fast.training.sinks import Sinks
from sae_fast.training.trainer import StepMetrics

METRICS = StepMetrics(10, 1000, 2.5, {"mse": 2.0}, 0.7, 32.0, 1, 1e-3)
NUMBERS = {"tokens": 1000, "loss": 2.5, "explained_variance": 0.7, "l0": 32.0, "n_dead": 1, "lr": 1e-3, "mse": 2.0}


class _Stand:
    """Keeps what was sent, and fails from the n-th time on."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.begun: list[dict[str, Any]] = []
        self.sent: list[tuple[Any, ...]] = []
        self.fails_at, self.closed = fails_at, False

    def init(self, **given: Any) -> "_Stand":
        self.begun.append(given)
        self._fail(0)
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.sent.append((step, numbers))
        self._fail(len(self.sent))

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.sent.append((step, key, value))

    def finish(self) -> None:
        self.closed = True

    close = finish

    def _fail(self, n: int) -> None:
        if self.fails_at is not None and n >= self.fails_at:
            raise ConnectionError("the network is gone")


def stand_in(monkeypatch: pytest.MonkeyPatch, package: str, fails_at: int | None = None) -> _Stand:
    stand, module = _Stand(fails_at), types.ModuleType(package)
    module.init = stand.init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package, module)
    return stand


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_services_get_every_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str) -> None:
    """Under the SAE's name, with the step; a run that goes on adds to what is there, another folder of that name does not."""
    stand = stand_in(monkeypatch, package)

    for folder in (tmp_path / "run-7", tmp_path / "run-7", tmp_path / "other" / "run-7"):
        sinks = Sinks(OutputOptions(**{package: "project"}), {"train": {}})
        sinks.open(folder)
        sinks.write({"a": METRICS})
        sinks.close()

    names = [begun["name"] for begun in stand.begun]
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("run-7-") for name in names)
    assert {(begun["project"], begun["resume"]) for begun in stand.begun} == {("project", "allow")}
    assert package == "trackio" or stand.begun[0]["id"] == names[0]
    assert stand.sent == [(10, {f"a/{key}": value for key, value in NUMBERS.items()})] * 3
    assert stand.closed


def test_tensorboard_gets_every_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the folder of the run; what an earlier attempt wrote of these steps is not shown."""
    stand, given, module = _Stand(), [], types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = lambda *a, **k: given.append((*a, k)) or stand  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    sinks = Sinks(OutputOptions(tensorboard=True), {})

    sinks.open(tmp_path)
    sinks.write({"a": METRICS})
    sinks.close()

    assert given == [(str(tmp_path / "tensorboard"), {"purge_step": 10})]
    assert stand.sent == [(10, f"a/{key}", value) for key, value in NUMBERS.items()]
    assert stand.closed


@pytest.mark.parametrize("wanted", [{"wandb": "p"}, {"trackio": "p"}, {"tensorboard": True}])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: dict[str, Any]) -> None:
    """With the extra that brings it; without the option nothing is imported."""
    package = next(iter(wanted))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if package == "tensorboard" else package, None)
    Sinks(OutputOptions(), {}).open(tmp_path)

    for begin in (Sinks(OutputOptions(**wanted), {}).require, lambda: Sinks(OutputOptions(**wanted), {}).open(tmp_path)):
        with pytest.raises(MissingExtraError, match=rf'pip install "sae-fast\[{package}\]"'):
            begin()


def test_a_missing_package_is_noticed_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, configure: Any, tmp_path: Path
) -> None:
    """Neither the model is loaded nor the corpus read."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(run, "load_lm", lambda config: pytest.fail("the model was loaded"))
    config: RunConfig = configure(output={"wandb": "project"})

    with pytest.raises(MissingExtraError, match="wandb is not installed"):
        train(config, show_progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fails_at", [0, 2])
def test_a_service_that_fails_does_not_end_training(
    monkeypatch: pytest.MonkeyPatch, configure: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails_at: int
) -> None:
    """At its start or on the way: it is told of once, nothing more is sent, and the other service and the run go on."""
    broken, sound = stand_in(monkeypatch, "wandb", fails_at), stand_in(monkeypatch, "trackio")

    saes = train(configure(output={"wandb": "project", "trackio": "project", "log_steps": 4}), show_progress=False)

    told = [line for line in capsys.readouterr().err.splitlines() if "wandb" in line]
    assert told == ["sae-fast: wandb gets no more metrics of this run, which goes on without it: the network is gone"]
    assert len(saes) == 1
    assert len(broken.sent) == fails_at
    assert [step for step, _ in sound.sent] == [4, 8, 12, 16, 20]
    assert (tmp_path / "run" / "run.json").exists()
