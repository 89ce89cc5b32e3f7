"""Where metrics go besides metrics.jsonl: TensorBoard, Weights & Biases, trackio, each only where it is asked for."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sae_fast.errors import MissingExtraError
from sae_fast.training.trainer import StepMetrics


class Wanted(Protocol):
    """What `[output]` says."""

    @property
    def tensorboard(self) -> bool: ...
    @property
    def wandb(self) -> str | None: ...
    @property
    def trackio(self) -> str | None: ...


class Sinks:
    """The sinks of a run. Nothing is imported before `open`."""

    def __init__(self, wanted: Wanted, settings: Mapping[str, Any]) -> None:
        self.wanted, self.settings = wanted, dict(settings)
        self._writer: Any = None
        self._runs: list[Any] = []

    def require(self) -> None:
        """Raise `MissingExtraError` where a package that is wanted is not installed."""
        if self.wanted.tensorboard:
            _module("torch.utils.tensorboard", "tensorboard")
        for package in ("wandb", "trackio"):
            if getattr(self.wanted, package):
                _module(package, package)

    def open(self, folder: Path) -> None:
        """Begin, or go on with, the runs that are wanted. Raises `MissingExtraError` where a package is not installed."""
        if self.wanted.tensorboard:
            self._writer = _module("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))
        for package, project in (("wandb", self.wanted.wandb), ("trackio", self.wanted.trackio)):
            if project:
                given = {"project": project, "name": folder.name, "config": self.settings}
                # One identity for a folder: a run that goes on adds to what is there.
                given |= {"id": folder.name, "resume": "allow"} if package == "wandb" else {"resume": "allow"}
                self._runs.append(_module(package, package).init(**given))

    def write(self, metrics: Mapping[str, StepMetrics]) -> None:
        """The numbers of one step, each as `<SAE>/<name>`."""
        step = next(iter(metrics.values())).step
        numbers = {f"{name}/{key}": value for name, found in metrics.items() for key, value in _numbers(found).items()}
        if self._writer is not None:
            for key, value in numbers.items():
                self._writer.add_scalar(key, value, step)
        for run in self._runs:
            run.log(numbers, step=step)

    def close(self) -> None:
        """Send what is left."""
        if self._writer is not None:
            self._writer.close()
        for run in self._runs:
            run.finish()


def _numbers(metrics: StepMetrics) -> dict[str, float]:
    own = {key: getattr(metrics, key) for key in ("tokens", "loss", "explained_variance", "l0", "n_dead", "lr")}
    return own | dict(metrics.terms)


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"[output] {package}: the package {package} is not installed ({error})", advice=f"pip install {package}"
        ) from None
