"""Every error that sae_fast raises on purpose.

    SaeFastError
    ├── ArgumentError                    an argument is missing or not allowed here
    ├── ConfigError                      a configuration file: not TOML, unknown key, wrong type
    ├── CorpusError                      a corpus: missing, empty, no such column, text that cannot be encoded
    ├── DiskFullError                    no space left; what was finished before is kept
    ├── FormatError                      a file or folder is not what its format promises
    │   └── SourceError                  a name leads to no files, or they cannot be fetched
    │       └── UnreachableError         the server that holds them does not answer
    ├── HookNotFoundError                the language model has no such hook
    ├── ImplementationUnavailableError   the implementation that was asked for cannot run
    ├── MismatchError                    parts that do not fit each other
    ├── MissingExtraError                an optional package is needed and not installed
    ├── ModelNotFoundError               no language model at that place
    ├── NonFiniteError                   NaN or infinity where numbers are needed
    ├── ShapeError                       a tensor has the wrong shape or dtype
    ├── StoppedError                     a run was asked to end, and has saved what it did
    └── StoreError                       a folder of tokens or activations: missing, unfinished, of another version

A message says what is wrong, what was expected, what was found, and what to do about it.
"""

import difflib
from collections.abc import Iterable

_NOTHING = object()


class SaeFastError(Exception):
    """Base of all errors of this package.

    `what` names the argument or file and the problem; `expected`, `got` and `advice` are appended to the message and kept
    as attributes.
    """

    def __init__(self, what: str, *, expected: object = None, got: object = _NOTHING, advice: str | None = None) -> None:
        message = what
        if expected is not None:
            message += f": expected {expected}"
        if got is not _NOTHING:
            message += f"{',' if expected is not None else ':'} got {got}"
        if advice is not None:
            message += f". {advice}"
        super().__init__(message)
        self.expected = expected
        self.got = None if got is _NOTHING else got
        self.advice = advice


class ArgumentError(SaeFastError):
    """An argument is missing, or has a value that is not allowed here."""


class ConfigError(SaeFastError):
    """A configuration that cannot be read, or whose content is not valid."""


class CorpusError(SaeFastError):
    """A corpus that cannot be read, or holds nothing to read."""


class DiskFullError(SaeFastError):
    """No space left on the device; what was being written has been removed, what was finished is kept."""


class FormatError(SaeFastError):
    """A file or folder does not hold what its format promises; the message begins with the path."""


class SourceError(FormatError):
    """A name leads to no files, or its files cannot be fetched: unknown, private, damaged on the way."""


class UnreachableError(SourceError):
    """The server that holds the files does not answer; the message says what to fetch elsewhere and where to put it."""


class HookNotFoundError(SaeFastError):
    """The language model has no hook of that name."""


class ImplementationUnavailableError(SaeFastError):
    """The implementation that was asked for cannot do this operation here."""


class MissingExtraError(SaeFastError):
    """An optional package is needed and not installed; the message names the extra that brings it."""


class MismatchError(SaeFastError):
    """Two inputs that do not belong together."""


class ModelNotFoundError(SaeFastError):
    """There is no language model at the place that was named."""


class NonFiniteError(SaeFastError):
    """A tensor holds NaN or infinity where finite numbers are needed."""


class ShapeError(SaeFastError):
    """A tensor has the wrong shape or dtype; the message names the argument."""


class StoppedError(SaeFastError):
    """A run was asked to end before it was done; what it did is saved, and it goes on when started again."""


class StoreError(SaeFastError):
    """A folder of tokens or activations is missing, unfinished, damaged, or of another version."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the closest of `valid`, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
