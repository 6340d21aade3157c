"""The model zoo: which detectors there are, by name, and how one is made or loaded."""
