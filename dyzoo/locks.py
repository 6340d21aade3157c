"""One process at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from dyzoo.errors import TrainingError
from dyzoo.text import printable

LOCK_NAME = ".lock"
_HELD = (errno.EWOULDBLOCK, errno.EACCES)
_UNKNOWN = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # file systems without locks
_MOST_BYTES = 200


class RunLock:
    """The right to write into a run's folder, from `take` to the end of the `with` block.

    The system's own lock on a file: it ends with the process that holds it, however that ends, and holds on other hosts
    too where the file system shares it. The file says whose it is and goes when the run ends.

    Args:
        folder: the run's; made by `take`, and removed again if nothing was written into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOCK_NAME
        self._file: int | None = None
        self._made: list[Path] = []

    def take(self, wait: bool = False) -> None:
        """Take the lock; whatever a run that was killed has left of it is no obstacle.

        Args:
            wait: until another process lets go of it.

        Raises:
            TrainingError: another run holds it, and `wait` is False.
            OSError: the folder cannot be written to.
        """
        absent = [place for place in (self.folder, *self.folder.parents) if not place.exists()]
        self._made = absent
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            except FileNotFoundError:  # whoever had made the folder has removed it in between
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.read(file, _MOST_BYTES).decode("utf-8", "replace")
                os.close(file)
                if error.errno in _HELD:
                    raise TrainingError(
                        f"{self.folder} is in use by another run ({printable(owner)}): wait for it, stop it, or "
                        "choose another --out"
                    ) from None
                if error.errno in _UNKNOWN:
                    self.path.unlink(missing_ok=True)
                    break
                raise
            if self._is_there(file):
                self._hold(file)
                break
            os.close(file)  # the run before has removed it in between

    def _is_there(self, file: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file), self.path.lstat())
        return False

    def _hold(self, file: int) -> None:
        self._file = file
        _locks.add(self)
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())

    def let_go_in_child(self) -> None:
        """Close the file in a forked process, which would hold the lock for as long as it lives."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
        for place in self._made:
            with suppress(OSError):  # it is no longer empty
                place.rmdir()


_locks: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_locks):
        lock.let_go_in_child()


os.register_at_fork(after_in_child=_let_go_in_child)
