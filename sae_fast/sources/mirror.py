"""A folder or address that has files of the hub, for machines that do not reach it."""

import os

MIRROR = "SAE_FAST_MIRROR"
"""Names the folder or address; files lie in it as owner/repo/path, or owner/repo@revision/path."""


def mirror() -> str | None:
    """The mirror that the user named, if any."""
    return os.environ.get(MIRROR, "").strip().rstrip("/") or None


def what_to_fetch(name: str, place: str) -> str:
    """What somebody without a network can do to have what `name` means at `place` of a mirror."""
    is_set = "" if mirror() else f", with {MIRROR} set to MIRROR"
    return (
        f"Where there is a network, run: sae-fast fetch '{name}' --mirror MIRROR. Then bring what it wrote to this machine, "
        f"as {mirror() or 'MIRROR'}/{place}{is_set}"
    )
