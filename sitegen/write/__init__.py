"""From records to the files of a static site. Imports neither torch nor anything that does."""

from sitegen.write.output import OutputDir
from sitegen.write.site import SiteSize, write_site

__all__ = ["OutputDir", "SiteSize", "write_site"]
