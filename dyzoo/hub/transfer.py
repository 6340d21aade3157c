"""One file over HTTP, taken up where it broke off.

huggingface_hub has done this and does it no longer: from its version 2 on a connection that is reset begins the file
anew, and one that breaks twice never ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import get_session, hf_raise_for_status, tqdm

from dyzoo.hub.failures import FAILURES, is_transient, retry_after, status
from dyzoo.hub.patience import OutOfPatienceError, Patience

_ATTEMPTS = 5  # without one new byte
_LONGEST_PAUSE_S = 8.0
_CHUNK_BYTES = 1 << 14  # small, as what arrives of one before the connection breaks may be lost
_RANGE_NOT_SATISFIABLE = 416


def fetch(url: str, headers: dict[str, str], part: Path, size: int, name: str, patience: Patience) -> None:
    """Make `part` the whole file; what it has already is kept, and what has arrived is kept when this fails.

    Args:
        url: the file's address; redirections are followed.
        headers: HTTP headers of the requests.
        part: where the file's first bytes are, or nothing yet.
        size: length of the whole file, in bytes.
        name: for the progress bar.
        patience: how long to try.

    Raises:
        OSError, or another of `FAILURES`: the file is not whole.
    """
    headers = {**headers, "Accept-Encoding": "identity"}
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    part.touch()
    failures = 0
    with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=None, name="dyzoo.hub.transfer") as bar:
        while (start := part.stat().st_size) != size:
            bar.update(start - bar.n)
            try:
                _append(url, headers, part, start, size, bar, patience)
                if part.stat().st_size < size:
                    raise OSError(f"{part.stat().st_size} of {size} bytes arrived")
            except FAILURES as error:
                if status(error) == _RANGE_NOT_SATISFIABLE:
                    part.write_bytes(b"")  # what is there is not the beginning of what the Hub has
                elif not is_transient(error) or isinstance(error, OutOfPatienceError):
                    raise
                failures = 0 if part.stat().st_size > start else failures + 1
                if failures == _ATTEMPTS:
                    raise
                patience.sleep(retry_after(error) or min(2.0**failures, _LONGEST_PAUSE_S))
        bar.update(size - bar.n)


def _append(url: str, headers: dict[str, str], part: Path, start: int, size: int, bar: Any, patience: Patience) -> None:
    wanted = {"Range": f"bytes={start}-"} if start else {}
    with _response(url, {**headers, **wanted}) as (answer, chunks), part.open("ab") as file:
        if start and answer != 206:  # the whole file comes, whatever was asked for
            file.seek(0)
            file.truncate()
            bar.update(-start)
        for chunk in chunks:
            if patience.is_over:
                raise OutOfPatienceError("nobody waits for it any more")
            if file.tell() + len(chunk) > size:
                raise OSError(f"more than {size} bytes arrive")
            file.write(chunk)
            bar.update(len(chunk))
            patience.earn(len(chunk))


@contextmanager
def _response(url: str, headers: dict[str, str]) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Status and content, by whichever HTTP library huggingface_hub is built on."""
    session: Any = get_session()
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    if callable(session.stream):  # httpx and its successors; in requests it is a setting
        with session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            hf_raise_for_status(response)
            yield response.status_code, response.iter_bytes()
    else:  # requests, before version 1
        with session.get(url, headers=headers, timeout=timeout, stream=True) as response:
            hf_raise_for_status(response)
            yield response.status_code, response.iter_content(_CHUNK_BYTES)
