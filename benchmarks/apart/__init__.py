"""Measurements on a CPU, each in a process of its own, the processes taking turns under loads."""
