"""One file over HTTP, from the Hub or from any address, taken up where it broke off.

huggingface_hub has done this and does it no longer: from its version 2 on a connection that is reset begins the file
anew, and one that breaks twice never ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import get_session, hf_raise_for_status, tqdm

from dyzoo.hub.failures import FAILURES, is_transient, retry_after, status
from dyzoo.hub.patience import OutOfPatienceError, Patience
from dyzoo.text import printable

_ATTEMPTS = 5  # without one new byte
_LONGEST_PAUSE_S = 8.0
_CHUNK_BYTES = 1 << 14  # small, as what arrives of one before the connection breaks may be lost
_RANGE_NOT_SATISFIABLE = 416
_REDIRECTIONS = (301, 302, 303, 307, 308)
_MOST_REDIRECTIONS = 10
_LONGEST_NUMBER = 18  # digits of a length; Python itself refuses thousands of them


class WrongSizeError(ValueError):
    """A file that is longer or shorter than it should be: another try would bring the same."""


class RedirectionError(ValueError):
    """A server sends its visitors where they do not go."""


@dataclass
class _Goal:
    """When a file is whole.

    Attributes:
        size: in bytes, None until the server says.
        most: bytes, where nobody knows the size.
        is_hub: False where the address is anybody's.
        answered: a server has said something.
    """

    size: int | None
    most: int
    is_hub: bool
    answered: bool = False

    def announced(self, size: int | None) -> None:
        """Take the size that a server announces for the whole file."""
        limit = self.most if self.size is None else self.size
        if size is not None and size > limit:
            raise WrongSizeError(f"more than {limit} bytes arrive")
        if size is not None and self.size is not None and size < self.size:
            raise WrongSizeError(f"{size} bytes arrive, expected {self.size}")
        self.size = size if self.size is None else self.size

    def check(self, size: int) -> None:
        """Make sure that so many bytes may be there."""
        limit = self.most if self.size is None else self.size
        if size > limit:
            raise WrongSizeError(f"more than {limit} bytes arrive")


def fetch(
    url: str,
    headers: dict[str, str],
    part: Path,
    size: int | None,
    name: str,
    patience: Patience,
    *,
    most: int = 0,
    is_hub: bool = True,
) -> None:
    """Make `part` the whole file; what it has already is kept, and what has arrived is kept when this fails.

    Args:
        url: the file's address, http or https; redirections to such are followed.
        headers: HTTP headers of the requests; another server than the first is not told the token.
        part: where the file's first bytes are, or nothing yet.
        size: length of the whole file, in bytes; None: the server says.
        name: for the progress bar.
        patience: how long to try.
        most: bytes that may arrive where `size` is None.
        is_hub: the Hub, which has answered before, is asked again for longer; another server that cannot be reached is
            not, and one of https may not redirect to http.

    Raises:
        WrongSizeError: the file has another size, or is larger than it may be.
        OSError, or another of `FAILURES`: the file is not whole.
    """
    headers = {**headers, "Accept-Encoding": "identity"}
    goal = _Goal(size, most, is_hub, answered=is_hub)
    if part.exists() and part.stat().st_size > (most if size is None else size):
        part.unlink()
    part.touch()
    failures = 0
    with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None, name="dyzoo.hub.transfer") as bar:
        while (start := part.stat().st_size) != goal.size:
            bar.update(start - bar.n)
            try:
                _append(url, headers, part, start, goal, bar, patience)
                if part.stat().st_size != goal.size:
                    raise OSError(f"{part.stat().st_size} of {goal.size} bytes arrived")
            except FAILURES as error:
                if status(error) == _RANGE_NOT_SATISFIABLE:
                    if goal.size is None and _is_all(error, start):
                        break
                    part.write_bytes(b"")  # what is there is not the beginning of what the server has
                elif not is_transient(error) or isinstance(error, OutOfPatienceError) or not goal.answered:
                    raise
                failures = 0 if part.stat().st_size > start else failures + 1
                if failures == _ATTEMPTS:
                    raise
                patience.sleep(retry_after(error) or min(2.0**failures, _LONGEST_PAUSE_S))
        bar.update(part.stat().st_size - bar.n)


def _append(
    url: str, headers: dict[str, str], part: Path, start: int, goal: _Goal, bar: Any, patience: Patience
) -> None:
    wanted = {"Range": f"bytes={start}-"} if start else {}
    with _response(url, {**headers, **wanted}, goal) as (response, chunks), part.open("ab") as file:
        if start and response.status_code != 206:  # the whole file comes, whatever was asked for
            file.seek(0)
            file.truncate()
            bar.update(-start)
        if (length := _length(response.headers)) is not None:
            goal.announced(file.tell() + length)
            bar.total = goal.size
        for chunk in chunks:
            if patience.is_over:
                raise OutOfPatienceError("nobody waits for it any more")
            goal.check(file.tell() + len(chunk))
            file.write(chunk)
            bar.update(len(chunk))
            patience.earn(len(chunk))
        if goal.size is None:  # nobody has said it, and the answer has come to its end
            goal.size = file.tell()


def _length(headers: Mapping[str, str]) -> int | None:
    """Bytes that an answer announces, None where it announces none."""
    text = headers.get("Content-Length", "")
    if not (text.isascii() and text.isdecimal()) or headers.get("Content-Encoding", "identity") != "identity":
        return None
    return int(text[:_LONGEST_NUMBER])


def _is_all(error: Exception, start: int) -> bool:
    """Whether a server that has no byte after the first `start` says that those are the file."""
    return bool(start) and getattr(error, "response").headers.get("Content-Range") == f"bytes */{start}"  # noqa: B009


@contextmanager
def _response(url: str, headers: dict[str, str], goal: _Goal) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """Answer and content, by way of redirections to the web alone."""
    for _ in range(_MOST_REDIRECTIONS):
        with _single_response(url, headers) as (response, chunks):
            goal.answered = True
            if response.status_code not in _REDIRECTIONS:
                hf_raise_for_status(response)
                yield response, chunks
                return
            target = urljoin(url, response.headers.get("Location", ""))
        before, after = urlsplit(url), urlsplit(target)
        safe = ("https",) if before.scheme == "https" and not goal.is_hub else ("https", "http")
        if after.scheme not in safe or not after.hostname:
            raise RedirectionError(f"it redirects to {printable(target)[:200]}, expected {' or '.join(safe)}")
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        url = target
    raise RedirectionError(f"it redirects more than {_MOST_REDIRECTIONS} times")


@contextmanager
def _single_response(url: str, headers: dict[str, str]) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """By whichever HTTP library huggingface_hub is built on."""
    session: Any = get_session()
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    if callable(session.stream):  # httpx and its successors; in requests it is a setting
        with session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=False) as response:
            yield response, response.iter_bytes()
    else:  # requests, before version 1
        with session.get(url, headers=headers, timeout=timeout, stream=True, allow_redirects=False) as response:
            yield response, response.iter_content(_CHUNK_BYTES)
