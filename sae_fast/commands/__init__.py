"""The commands of `sae-fast`, one file each, with `register`; they import what they need when they run."""
