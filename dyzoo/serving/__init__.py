"""Detectors behind HTTP: `create_app` makes the application, `dyzoo serve` runs it.

Needs the packages of `dyzoo[serve]`.
"""

from __future__ import annotations

from dyzoo.errors import DyzooError

try:
    from dyzoo.serving.app import create_app as create_app
except ModuleNotFoundError as error:
    if (error.name or "").startswith("dyzoo"):
        raise
    raise DyzooError(f"{error.name} is not installed, a server needs it: pip install 'dyzoo[serve]'") from None
