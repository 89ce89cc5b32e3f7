"""The configuration of a training run: a TOML file, checked whole before anything begins.

`[model]` and `[corpus]` are those of a release file. A value of a `[[sae]]` table may be a list: the run then trains one SAE
for each combination, in one pass over the activations.
"""

import itertools
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from sae_fast.activations.codec import StoreDtype
from sae_fast.corpus.options import STANDARD_LIBRARY, CorpusOptions
from sae_fast.errors import ConfigError, nearest
from sae_fast.model_options import ModelOptions
from sae_fast.tables import at_least, parse_table
from sae_fast.training.finetune import FinetuneOptions
from sae_fast.training.trainer import TrainOptions
from sae_fast.training.variants import VARIANTS, SharedOptions


@dataclass(frozen=True)
class ActivationOptions:
    """`[activations]`: the store that the SAEs are trained on."""

    on_disk: bool = True
    """keep a store, read once and shuffled as a whole; else the LM runs along with the training, again in each epoch"""
    buffer_tokens: int = 262144
    """without a store: activations in memory, among which rows are shuffled"""
    dtype: StoreDtype = "bfloat16"
    """how rows are stored: `bfloat16`, `float16`, `float32`, or `int8` with a scale to each row"""
    held_out: float = 0.02
    """share of the documents that are kept from training, for thresholds and evaluation"""
    batch_size: int = 32
    """contexts the LM reads at once"""
    shard_tokens: int = 131072
    """positions of a shard: what an interrupted pass loses at most"""
    folder: str | None = None
    """where the store is; default: `activations` in the output folder. Several runs may share one"""

    def __post_init__(self) -> None:
        at_least("[activations]", "batch_size", self.batch_size, 1)
        at_least("[activations]", "buffer_tokens", self.buffer_tokens, 1)
        at_least("[activations]", "shard_tokens", self.shard_tokens, 1)
        if not 0 < self.held_out < 1:
            raise ConfigError(f"[activations] held_out: expected a share between 0 and 1, got {self.held_out}")


@dataclass(frozen=True)
class OutputOptions:
    """`[output]`: what is written, and how often."""

    folder: str = "run"
    """where everything goes: tokens, activations, checkpoints, metrics, report, SAEs"""
    checkpoint_tokens: int = 5_000_000
    """activation vectors between checkpoints"""
    log_steps: int = 50
    """steps between lines of metrics"""
    dtype: str = "float32"
    """of the weights of the finished SAEs: `float32`, `bfloat16` or `float16`"""
    format: str = "saelens"
    """of their folders: one of the formats that `sae-fast convert` writes; what it cannot hold is saved as `sae_fast`"""
    tensorboard: bool = False
    """write metrics for TensorBoard too"""
    wandb: str | None = None
    """project on Weights & Biases to send metrics to"""
    trackio: str | None = None
    """project of trackio to send metrics to"""

    def __post_init__(self) -> None:
        at_least("[output]", "checkpoint_tokens", self.checkpoint_tokens, 1)
        at_least("[output]", "log_steps", self.log_steps, 1)
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"[output] dtype: expected float32, bfloat16 or float16, got {self.dtype!r}")


@dataclass(frozen=True)
class RunConfig:
    """A whole configuration."""

    model: ModelOptions
    corpus: CorpusOptions
    sae: Mapping[str, tuple[str, SharedOptions]]
    """(architecture, options) of every SAE by its name"""
    train: TrainOptions = field(default_factory=TrainOptions)
    finetune: FinetuneOptions = field(default_factory=FinetuneOptions)
    activations: ActivationOptions = field(default_factory=ActivationOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    @classmethod
    def load(cls, path: Path | str) -> "RunConfig":
        """Read the file at `path`; paths in it are relative to it. Raises `ConfigError` that begins with the path."""
        path = Path(path)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
            return cls.from_dict(content, path.resolve().parent)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file", advice="sae-fast train --new FILE writes one to start from") from None
        except (UnicodeDecodeError, IsADirectoryError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: not a TOML file ({error})") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], base: Path | None = None) -> "RunConfig":
        """Check parsed content. Raises `ConfigError`."""
        base = base or Path.cwd()
        tables: dict[str, type[Any]] = {
            "model": ModelOptions,
            "corpus": CorpusOptions,
            "train": TrainOptions,
            "finetune": FinetuneOptions,
            "activations": ActivationOptions,
            "output": OutputOptions,
        }
        for key in content:
            if key not in tables and key != "sae":
                raise ConfigError(
                    f"unknown table [{key}].{nearest(key, [*tables, 'sae'])}", expected=", ".join([*tables, "[sae]"])
                )
        for key in ("model", "corpus", "sae"):
            if not content.get(key):
                raise ConfigError(f"the table [{key}] is missing")
        parsed = {key: parse_table(table, content[key], f"[{key}]") for key, table in tables.items() if key in content}
        parsed["model"] = _located(parsed["model"], base)
        parsed["corpus"] = _located(parsed["corpus"], base)
        output = parsed.get("output", OutputOptions())
        parsed["output"] = replace(output, folder=str(_absolute(base, output.folder)))
        stored = parsed.get("activations", ActivationOptions())
        folder = stored.folder or str(Path(parsed["output"].folder) / "activations")
        parsed["activations"] = replace(stored, folder=str(_absolute(base, folder)))
        return cls(**parsed, sae=_saes(content["sae"]))

    def as_dict(self) -> dict[str, Any]:
        """What decides the weights of the SAEs, for checkpoints and reports; not how processes share the work."""
        saes = {name: {"architecture": kind, **asdict(options)} for name, (kind, options) in self.sae.items()}
        stored = {key: value for key, value in asdict(self.activations).items() if key != "folder"}
        parts = {name: asdict(getattr(self, name)) for name in ("model", "corpus", "train", "finetune")}
        del parts["train"]["shard_features"]
        return {**parts, "activations": stored, "sae": saes}


def _saes(tables: Any) -> dict[str, tuple[str, SharedOptions]]:
    if not isinstance(tables, list):
        raise ConfigError("[sae]: expected an array of tables; write [[sae]] with two brackets")
    found: dict[str, tuple[str, SharedOptions]] = {}
    for number, table in enumerate(tables, 1):
        where = f"[[sae]] number {number}"
        kind = table.get("architecture")
        if kind not in VARIANTS:
            raise ConfigError(f"{where} architecture", expected=f"one of {', '.join(VARIANTS)}", got=repr(kind))
        for combination, varied in _combinations({key: value for key, value in table.items() if key != "architecture"}, kind):
            options = parse_table(VARIANTS[kind].Options, combination, where)
            name = options.name or _default_name(kind, options)
            if varied and (options.name or name in found):
                name = "-".join([name, *(f"{key.replace('_', '')}{_short(value)}" for key, value in varied.items())])
            if name in found:
                raise ConfigError(f"{where}: another SAE is called {name!r} too", advice="Give it a name of its own")
            found[name] = (kind, options)
    return found


def _combinations(table: Mapping[str, Any], kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(one value to each key, those that vary) for every combination of the lists in a table."""
    types_of = get_type_hints(VARIANTS[kind].Options)
    lists = {key: value for key, value in table.items() if isinstance(value, list) and _varies(value, types_of.get(key))}
    if empty := [key for key, value in lists.items() if not value]:
        raise ConfigError(f"[[sae]] {empty[0]}: expected at least one value, got an empty list")
    combined = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    return [({**table, **values}, values) for values in combined]


def _varies(value: list[Any], hint: Any) -> bool:
    """Whether a list holds values to try; of a key that takes an array it does so when it holds arrays."""
    return getattr(hint, "__origin__", None) is not tuple or (bool(value) and isinstance(value[0], list))


def _default_name(kind: str, options: SharedOptions) -> str:
    """From hook and variant, and what is usually varied: `8-resid-post-topk-16384-k32`."""
    hook = "-to-".join(dict.fromkeys((options.reads[0], options.reads[-1]))).replace("blocks.", "")
    hook = hook.replace("hook_", "").replace("_", "-").replace(".", "-")
    size = str(options.d_sae) if options.d_sae is not None else f"x{options.expansion:g}"
    level = next((f"{key}{getattr(options, name):g}" for key, name in _LEVELS if getattr(options, name, None)), "")
    seed = f"seed{options.seed}" if options.seed else ""
    return "-".join(part for part in (hook, kind.replace("_", "-"), size, level, seed) if part)


def _short(value: Any) -> str:
    return "-".join(map(_short, value)) if isinstance(value, list) else str(value).replace(".hook_", "-").replace("_", "-")


_LEVELS = (("k", "k"), ("l0-", "target_l0"), ("l0c", "l0_coefficient"), ("l1-", "l1_coefficient"), ("n", "max_iterations"))


def _located(table: Any, base: Path) -> Any:
    if table.source == STANDARD_LIBRARY:
        return table
    path = _absolute(base, table.source)
    if path.exists():
        return replace(table, source=str(path))
    if table.source.startswith((".", "/", "~")):
        raise ConfigError(f"source = {table.source!r}: there is no {path}", advice="Paths are relative to the file")
    return table


def _absolute(base: Path, path: str) -> Path:
    return (base / Path(path).expanduser()).resolve()


def option_names(kind: str) -> list[str]:
    """Keys of a `[[sae]]` table of this architecture."""
    return [option.name for option in fields(VARIANTS[kind].Options)]
