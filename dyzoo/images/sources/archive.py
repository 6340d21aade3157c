"""Image files in a zip archive, read without unpacking it to disk.

Archives come from strangers: how much a member takes is bounded before and while it is read, methods whose decoders
cannot be bounded are refused, and names lead nowhere, as nothing is written.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, ClassVar

from dyzoo.errors import ImageError, first_line
from dyzoo.files import open_regular
from dyzoo.images.finding import IMAGE_SUFFIXES, at_home, natural_key
from dyzoo.images.reading import Picture, decode_picture
from dyzoo.images.sources.base import Pending, Reading, Source, failing
from dyzoo.text import printable

ARCHIVE_SUFFIX = ".zip"

MAX_MEMBER_BYTES = 2**28
"""Bytes of the largest image file that is read from an archive, 268 million."""
MAX_DIRECTORY_BYTES = 2**25
"""Bytes of the largest list of members, 34 million: some 400,000 names, for which Python takes ten times as much."""
MAX_RATIO = 200
"""Times of the archive's size that its images may have in all, beyond 64 MB: compressed pictures hardly shrink."""

_FREE_BYTES = 2**26
_PIECE = 2**20
_ENCRYPTED = 1  # bit of a member's flags
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of bzip2 and LZMA unpack as much at once as they like


@dataclass(frozen=True)
class ZipArchive(Source):
    """The images in a zip archive, in the natural order of their names; archives in it are passed over."""

    path: Path
    source: str
    is_many: ClassVar[bool] = True

    @classmethod
    def at(cls, path: Path) -> ZipArchive:
        """The file under its own name."""
        return cls(path, printable(str(path)))

    def names(self) -> Sequence[str]:
        """Those of its members; its own where it cannot be opened."""
        try:
            with open_regular(at_home(self.path)) as file, _opened(file, self.source) as archive:
                return [name for _, name in self._members(archive, os.fstat(file.fileno()).st_size)]
        except (ImageError, OSError):
            return [self.source]

    def count(self, frame_stride: int) -> int | None:
        """As many as it has members; without opening their pictures."""
        return len(self.names())

    def open(self, reading: Reading) -> Iterator[Pending]:
        """Its pictures, called `ARCHIVE/MEMBER`."""
        try:
            with open_regular(at_home(self.path)) as file, _opened(file, self.source) as archive:
                for member, name in self._members(archive, os.fstat(file.fileno()).st_size):
                    yield self._pending(_read(archive, member, name), name, reading)
        except ImageError as error:
            yield failing(str(error))
        except FileNotFoundError:
            yield failing(f"{self.source}: no such file")
        except OSError as error:
            yield failing(f"{self.source} cannot be opened: {error.strerror or first_line(error)}")

    def _members(self, archive: zipfile.ZipFile, size: int) -> Iterator[tuple[zipfile.ZipInfo, str]]:
        members = sorted(filter(_is_image, archive.infolist()), key=lambda member: natural_key(member.filename))
        if not members:
            raise ImageError(f"{self.source} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        total = sum(member.file_size for member in members)
        if total > size * MAX_RATIO + _FREE_BYTES:
            raise ImageError(
                f"{self.source} would unpack from {size} to {total} bytes, expected at most {MAX_RATIO} times as much: "
                "unpack it yourself if you trust it"
            )
        taken: set[str] = set()
        for member in members:
            yield member, unused_name(f"{self.source}/{printable(member.filename)}", taken)

    def _pending(self, content: bytes | ImageError, name: str, reading: Reading) -> Pending:
        if isinstance(content, ImageError):
            return failing(str(content))

        def picture() -> Picture:
            return replace(decode_picture(content, name, reading.least_size, reading.max_pixels), source=name)

        return picture


def unused_name(name: str, taken: set[str]) -> str:
    """The name, with a number where it is taken; it is then, too."""
    unused, number = name, 1
    while unused in taken:
        number += 1
        unused = f"{name} ({number})"
    taken.add(unused)
    return unused


class _Bounded:
    """A file that no more is read from at once than the largest list of members."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        content = b"" if size > MAX_DIRECTORY_BYTES else self._file.read(size if size >= 0 else MAX_DIRECTORY_BYTES + 1)
        if max(size, len(content)) > MAX_DIRECTORY_BYTES:
            raise ImageError(f"its list of members has {size} bytes, expected at most {MAX_DIRECTORY_BYTES}")
        return content


def _opened(file: BinaryIO, name: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(_Bounded(file))  # type: ignore[call-overload, no-any-return]
    except ImageError as error:
        raise ImageError(f"{name} is too large: {error}") from None
    except Exception as error:  # damaged ones raise almost anything
        raise ImageError(f"{name} is no zip archive, or damaged: {first_line(error)}") from None


def _is_image(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename)
    hidden = any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)
    return not member.is_dir() and not hidden and path.suffix.lower() in IMAGE_SUFFIXES


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes | ImageError:
    """The content of a member, or why there is none; its size is what comes out, not what the archive claims."""
    if member.flag_bits & _ENCRYPTED:
        return ImageError(f"{name} is encrypted: unpack the archive with its password")
    if member.compress_type not in _METHODS:
        return ImageError(f"{name} is compressed by method {member.compress_type}, expected deflate or none: unpack it")
    if member.file_size > MAX_MEMBER_BYTES:
        return ImageError(f"{name} has {member.file_size} bytes, expected at most {MAX_MEMBER_BYTES}: unpack it")
    pieces: list[bytes] = []
    left = MAX_MEMBER_BYTES
    try:
        with archive.open(member) as file:
            while piece := file.read(min(_PIECE, left + 1)):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    return ImageError(f"{name} has more than {MAX_MEMBER_BYTES} bytes: unpack it")
    except Exception as error:  # as above
        return ImageError(f"{name} is damaged: {first_line(error)}")
    return b"".join(pieces)
