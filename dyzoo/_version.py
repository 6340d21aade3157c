"""The version: read by the build, the package and all that names it."""

__version__ = "0.2.0"
