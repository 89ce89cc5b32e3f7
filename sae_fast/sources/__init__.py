"""Where the files of an SAE lie: folders, and the tensor files in them, read no further than asked.

`open_source` turns what a user names into a `Source`; `sae_fast.formats` reads it without knowing on which machine it lies.
"""

from sae_fast.sources.folder import Folder, LocalFolder, Source
from sae_fast.sources.opening import open_source
from sae_fast.sources.tensor_files import TensorFile

__all__ = ["Folder", "LocalFolder", "Source", "TensorFile", "open_source"]
