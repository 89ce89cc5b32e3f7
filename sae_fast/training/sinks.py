"""Where metrics go besides metrics.jsonl: TensorBoard, Weights & Biases, trackio, each only where it is asked for.

None of them is needed for anything else: one that fails while a run goes on says so once and is left alone.
"""

import importlib
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sae_fast.errors import MissingExtraError
from sae_fast.files import write_whole
from sae_fast.training.trainer import StepMetrics

RUN_ID = "run_id"
"""File in the folder of a run: what services know it by, so that a run that goes on adds to what is there."""

_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Wanted(Protocol):
    """What `[output]` says."""

    @property
    def tensorboard(self) -> bool: ...
    @property
    def wandb(self) -> str | None: ...
    @property
    def trackio(self) -> str | None: ...


class Sink(Protocol):
    """One place."""

    def write(self, numbers: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class Sinks:
    """The sinks of a run. Nothing is imported before `require` or `open`."""

    def __init__(self, wanted: Wanted, settings: Mapping[str, Any]) -> None:
        self.wanted, self.settings = wanted, dict(settings)
        self._open: dict[str, Sink] = {}

    def require(self) -> None:
        """Raise `MissingExtraError` where a package that is wanted is not installed."""
        for package in _MODULES:
            if getattr(self.wanted, package):
                _module(package)

    def open(self, folder: Path) -> None:
        """Begin, or go on with, the runs that are wanted; one that cannot begin is told of on standard error.

        Raises:
            MissingExtraError: a package is not installed.
        """
        self.require()
        if self.wanted.tensorboard:
            self._open["tensorboard"] = _TensorBoard(folder / "tensorboard")
        makers = {"wandb": _wandb, "trackio": _trackio}
        for package, make in makers.items():
            project = getattr(self.wanted, package)
            if project:
                self._begin(package, lambda make=make, project=project: make(project, folder, self.settings))  # type: ignore[misc]

    def write(self, metrics: Mapping[str, StepMetrics]) -> None:
        """The numbers of one step, each as `<SAE>/<name>`."""
        step = next(iter(metrics.values())).step
        numbers = {f"{name}/{key}": value for name, found in metrics.items() for key, value in _numbers(found).items()}
        for package, sink in list(self._open.items()):
            self._try(package, lambda sink=sink: sink.write(numbers, step))  # type: ignore[misc]

    def close(self) -> None:
        """Send what is left."""
        for package, sink in list(self._open.items()):
            self._try(package, sink.close)
        self._open.clear()

    def _begin(self, package: str, make: Callable[[], Sink]) -> None:
        def begin() -> None:
            self._open[package] = make()

        self._try(package, begin)

    def _try(self, package: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a service, its network or its disk can do, training matters more
            self._open.pop(package, None)
            reason = str(error).strip() or type(error).__name__
            sys.stderr.write(f"sae-fast: {package} gets no more metrics of this run, which goes on without it: {reason}\n")


class _TensorBoard:
    """Event files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            # Steps that were written before a kill and are now taken again are not shown twice.
            self._writer = _module("tensorboard").SummaryWriter(str(self.folder), purge_step=step)
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Service:
    """A run of wandb or trackio."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        self.run.log(dict(numbers), step=step)

    def close(self) -> None:
        self.run.finish()


def _wandb(project: str, folder: Path, settings: Mapping[str, Any]) -> Sink:
    name = _run_id(folder)
    config = {"project": project, "name": name, "config": dict(settings), "dir": str(folder)}
    return _Service(_module("wandb").init(**config, id=name, resume="allow"))


def _trackio(project: str, folder: Path, settings: Mapping[str, Any]) -> Sink:
    given = {"project": project, "name": _run_id(folder), "config": dict(settings)}
    return _Service(_module("trackio").init(**given, resume="allow", embed=False))


def _run_id(folder: Path) -> str:
    """The name of the folder and six digits, kept in it: folders of one name are not one run."""
    file = folder / RUN_ID
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in folder.resolve().name)
        write_whole(file, f"{safe or 'run'}-{secrets.token_hex(3)}".encode())
    return file.read_text(encoding="utf-8").strip()


def _numbers(metrics: StepMetrics) -> dict[str, float]:
    own = {key: getattr(metrics, key) for key in ("tokens", "loss", "explained_variance", "l0", "n_dead", "lr")}
    return own | dict(metrics.terms)


def _module(package: str) -> Any:
    try:
        return importlib.import_module(_MODULES[package])
    except ImportError as error:
        raise MissingExtraError(
            f"[output] {package}: the package {package} is not installed ({error})",
            advice=f'Install it with: pip install "sae-fast[{package}]"',
        ) from None
