"""onnxruntime-web, which runs an exported detector in a browser: a part of its npm package, unchanged.

The folder holds onnxruntime's JavaScript, its WebAssembly packed with xz (2 MB of 14), its licence, the notices of what
it is made of, and `origin.json`: the package, its version, and the sha256 of every file, unpacked.

`python -m dyzoo.demo.runtime PACKAGE WHEEL` makes the folder again, from what these commands fetch:

    npm pack onnxruntime-web@VERSION
    pip download --no-deps onnxruntime==VERSION
"""

from __future__ import annotations

import hashlib
import json
import lzma
from pathlib import Path
from typing import Any

from dyzoo.errors import ExportError

FOLDER = Path(__file__).parent
ORIGIN_NAME = "origin.json"
MODULE_NAME, BINARY_NAME = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
LICENCE_NAMES = ("LICENSE", "ThirdPartyNotices.txt")
NAMES = (MODULE_NAME, BINARY_NAME, *LICENCE_NAMES)

_PACKED = ".xz"


def origin() -> dict[str, Any]:
    """`package`, `version`, and `sha256` by the file's name."""
    found: dict[str, Any] = json.loads((FOLDER / ORIGIN_NAME).read_text(encoding="utf-8"))
    return found


def read_file(name: str) -> bytes:
    """One of `NAMES`, unpacked.

    Raises:
        ExportError: it is not there, or another one than `origin.json` says.
    """
    path = FOLDER / (name + _PACKED if name == BINARY_NAME else name)
    try:
        content = path.read_bytes()
        content = lzma.decompress(content) if path.suffix == _PACKED else content
    except (OSError, lzma.LZMAError) as error:
        raise ExportError(f"{path} cannot be read ({error}): install dyzoo again") from None
    if hashlib.sha256(content).hexdigest() != origin()["sha256"][name]:
        raise ExportError(f"{path} is another file than {ORIGIN_NAME} says: install dyzoo again")
    return content


def write_files(contents: dict[str, bytes], version: str) -> None:
    """Put another version into the folder, `contents` by `NAMES`."""
    for name, content in contents.items():
        if name == BINARY_NAME:
            packed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
            (FOLDER / (name + _PACKED)).write_bytes(packed)
        else:
            (FOLDER / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    told = {"package": "onnxruntime-web", "version": version, "sha256": hashes}
    (FOLDER / ORIGIN_NAME).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
