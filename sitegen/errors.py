"""Everything that `sitegen` raises on purpose.

    SitegenError
    ├── ReleaseError            a release file: missing, not TOML, unknown key, wrong type
    ├── MismatchError           parts that do not fit each other: an SAE and its hook, an index and its dataset
    ├── NonFiniteError          NaN or infinity where a number was expected
    ├── CacheError              the cache folder: in use by another build, or damaged
    ├── ContractError           a file of a site that does not follow the contract of `sitegen.records`
    ├── MissingExtraError       a package of an optional extra is not installed
    └── OutputError             the output folder
        ├── NotOurFolderError   a folder that is not empty and was not made by sitegen
        └── DiskFullError       no space left

The command line prints the message of a `SitegenError` (or of `sae_fast.errors.SaeFastError`) without a traceback and ends
with status 2. Every message says what is wrong, what was expected, what was found, and what to do.
"""


class SitegenError(Exception):
    """Base of all errors of this package."""


class ReleaseError(SitegenError):
    """A release file that cannot be read, or whose content is not valid."""


class MismatchError(SitegenError):
    """Two inputs that do not belong together."""


class NonFiniteError(SitegenError):
    """NaN or infinity in weights or activations."""


class CacheError(SitegenError):
    """A cache folder that another build is using, or whose files are damaged."""


class ContractError(SitegenError):
    """A file of a site that does not follow the contract."""


class MissingExtraError(SitegenError):
    """A package that only an optional extra installs."""


class OutputError(SitegenError):
    """An output folder that cannot be written."""


class NotOurFolderError(OutputError):
    """A folder that holds something else than a site made by sitegen; it is left as it was."""


class DiskFullError(OutputError):
    """No space left on the device; what was being written has been removed."""
