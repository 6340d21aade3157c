"""The first time on a GPU as one command: `python -m benchmarks gpu-report`, or `dyzoo bench gpu-report`.

Steps run in processes of their own, each within its share of the time. What is known is written after every step, so
that nothing is lost when the command is stopped, and a second call with the same folder goes on with what is missing.
"""
