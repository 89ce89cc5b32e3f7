"""Times the operations beside their contenders: `python -m benchmarks --help`."""
