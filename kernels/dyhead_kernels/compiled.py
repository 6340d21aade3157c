"""C++ sources of this package as libraries: compiled for this CPU when first used, and kept in the user's cache.

Where there is no compiler, or DYHEAD_KERNELS_NATIVE is 0, there is no library, and callers go on in plain PyTorch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from .backends import cache_folder, compiler_name, native_is_wanted

FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared")
INCLUDED = re.compile(r'^#include "([^"]+)"$', re.MULTILINE)
SECONDS = 120  # that a compiler may take; it takes three


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The compiled source, None where that cannot be had; why not is said once, if a compiler is there and fails."""
    compiler = shlex.split(compiler_name())  # "ccache g++" is one, too
    is_there = bool(compiler) and shutil.which(compiler[0]) is not None and os.name == "posix"
    if not is_there or not native_is_wanted() or not source.is_file():
        return None
    try:
        path = _folder() / f"{source.stem}-{_key(source, compiler)}.so"
        if not path.is_file():
            _compile(compiler, source, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error)
        reason = next((line for line in words.splitlines() if line.strip()), type(error).__name__)
        warnings.warn(f"{source.name} cannot be compiled, PyTorch's operators do its work: {reason}", stacklevel=2)
        return None


def call(source: Path, function: str, *arguments: object) -> None:
    """Call a function of a compiled source: tensors and None become pointers, integers 64 bits wide. Python's lock is
    released meanwhile.
    """
    compiled = library(source)
    assert compiled is not None
    getattr(compiled, function)(*map(_converted, arguments))


def _converted(argument: object) -> object:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else argument


def _folder() -> Path:
    """The folder of libraries: nobody else may write to it, since what lies there is run.

    Raises:
        PermissionError: somebody else can.
    """
    folder = cache_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = folder.stat()
    if state.st_uid != os.getuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} can be written by others: make it your own, or set XDG_CACHE_HOME")
    return folder


def _key(source: Path, compiler: Sequence[str]) -> str:
    """A name for what comes out, by the source with its headers, the compiler, the flags, the CPU, PyTorch's OpenMP."""
    command = [*compiler, "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
    parts = (*_texts(source), version, *FLAGS, _cpu(), str(_openmp()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _texts(source: Path) -> list[str]:
    """The text of a source, and of each file beside it that it includes."""
    texts, waiting = {}, [source]
    while waiting:
        path = waiting.pop()
        if path not in texts:
            texts[path] = path.read_text(encoding="utf-8")
            waiting += [path.with_name(name) for name in INCLUDED.findall(texts[path])]
    return list(texts.values())


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _openmp() -> Path | None:
    """PyTorch's own OpenMP library: the threads of a second one in the process would contend with its for the cores."""
    return next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), None)


def _compile(compiler: Sequence[str], source: Path, path: Path) -> None:
    """Write `path`, aside and renamed, so that processes may do the same at once."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        aside = Path(folder) / path.name
        own = _openmp()
        libraries = ["-Wl,--as-needed", str(own)] if own else []
        command = [*compiler, *FLAGS, str(source), "-o", str(aside), *libraries]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        aside.replace(path)
