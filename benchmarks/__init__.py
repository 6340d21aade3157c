"""Speed of the attention chain against its alternatives: `python -m benchmarks --help`."""
