"""Makes the folder again: `python -m dyzoo.demo.runtime PACKAGE WHEEL`, see `dyzoo.demo.runtime`."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from pathlib import Path

from dyzoo.demo.runtime import BINARY_NAME, FOLDER, LICENCE_NAMES, MODULE_NAME, write_files


def main(package: str, wheel: str) -> None:
    """Take the files out of onnxruntime-web's npm package and, as that lacks them, the licences out of the wheel.

    Args:
        package: file of `npm pack`.
        wheel: one of onnxruntime for Python, of the same version.
    """
    contents = {}
    with tarfile.open(package) as archive:

        def read(name: str) -> bytes:
            file = archive.extractfile(f"package/{name}")
            assert file is not None, f"{package} has no file {name}"
            return file.read()

        version = json.loads(read("package.json"))["version"]
        for name in (MODULE_NAME, BINARY_NAME):
            contents[name] = read(f"dist/{name}")
    if Path(wheel).name.split("-")[:2] != ["onnxruntime", version]:
        raise SystemExit(f"{wheel} is of another version than {package}, expected onnxruntime {version}")
    with zipfile.ZipFile(wheel) as archive_of_wheel:
        for name in LICENCE_NAMES:
            contents[name] = archive_of_wheel.read(f"onnxruntime/{name}")
    write_files(contents, version)
    print(f"onnxruntime-web {version} -> {FOLDER}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m dyzoo.demo.runtime PACKAGE.tgz WHEEL.whl")
    main(*sys.argv[1:])
