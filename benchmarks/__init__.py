"""Speed of the attention chain against its alternatives: `python -m benchmarks --help`, or `dyzoo bench --help`."""
