"""Image files and films on disk: folders, globs, the order of their names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
FILM_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".asf", ".flv",
    ".3gp", ".ogv", ".mxf",
)  # fmt: skip


def list_images(patterns: str | Path | Iterable[str | Path]) -> list[Path]:
    """Find image files: naturally sorted (`2.jpg` before `10.jpg`), each once.

    Args:
        patterns: files (kept whatever their suffix), folders (the images directly inside), and globs (`**` goes
            into subfolders). Hidden files are passed over.

    What matches nothing is kept as it came: reading it then says so, and does not keep the others from being read.
    """
    if isinstance(patterns, str | Path):
        patterns = [patterns]
    found: set[Path] = set()
    for pattern in patterns:
        try:
            found.update(expand(at_home(pattern)) or [Path(pattern)])
        except (OSError, ValueError):  # a folder that may not be read, a name that is too long: to be said as above
            found.add(Path(pattern))
    return sorted(found, key=natural_key)


def natural_key(path: str | Path) -> list[tuple[int, int, str]]:
    """Sort key that orders runs of digits by their number."""
    key = []
    for part in filter(None, re.split(r"([0-9]+)", str(path))):
        digits = part.lstrip("0") if part.isdecimal() else ""  # as text: Python turns no more than 4300 into a number
        key.append((0, len(digits), digits) if part.isdecimal() else (1, 0, part))
    return [*key, (2, 0, str(path))]


def is_image_file(path: Path) -> bool:
    """Whether this is a file that looks like an image by its name; hidden files do not."""
    return _has_suffix(path, IMAGE_SUFFIXES)


def is_picture_file(path: Path) -> bool:
    """Whether this is a file that looks like an image or a film by its name; hidden files do not."""
    return _has_suffix(path, (*IMAGE_SUFFIXES, *FILM_SUFFIXES))


def _has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def at_home(path: str | Path) -> Path:
    """The path with the home folder for a tilde; a file may be called so, too, where nobody has that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def expand(pattern: Path, accept: Callable[[Path], bool] = is_image_file) -> list[Path]:
    """The accepted files directly inside a folder or matched by a glob; a file itself, whatever it is.

    Raises:
        OSError, ValueError: a folder that may not be read, a name that no file can have.
    """
    if pattern.is_dir():
        return [path for path in pattern.iterdir() if accept(path)]
    if os.path.lexists(pattern):
        return [pattern]
    return [path for path in _matches(str(pattern)) if accept(path)]


def _matches(pattern: str) -> Iterator[Path]:
    """Paths that a glob matches; `**` goes through links to folders as well, but into each folder once."""
    stars = re.search(r"(?:^|(?<=/))\*\*(?:/|$)", pattern)
    if stars is None:
        yield from map(Path, glob.glob(pattern))  # noqa: PTH207 (pathlib has none for absolute patterns)
        return
    above, below = pattern[: stars.start()], pattern[stars.end() :] or "*"
    seen: set[tuple[int, int]] = set()
    for top in glob.glob(above) if above else ["."]:  # noqa: PTH207
        for folder, subfolders, _ in os.walk(top, followlinks=True):
            status = os.stat(folder)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
            subfolders[:] = [] if identity in seen else sorted(name for name in subfolders if not name.startswith("."))
            if identity not in seen:
                seen.add(identity)
                yield from _matches(os.path.join(glob.escape(folder), below))  # noqa: PTH118
