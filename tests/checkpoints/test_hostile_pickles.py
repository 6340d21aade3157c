"""No file can have code run, whatever it is made of: hostile ones are one line."""

from __future__ import annotations

import copyreg
import io
import operator
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dyzoo.checkpoints.reading import as_tensor, read_checkpoint, weights_of
from dyzoo.errors import CheckpointError
from tests.checkpoints.checkpoint_files import PICKLED, small_weights


class Calls:
    """An object whose pickle calls `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def deed(path: Path) -> str:
    """Python that makes a file."""
    return f"open({str(path)!r}, 'w').close()"


def file_that_does_it(path: Path) -> str:
    file = path.with_suffix(".inner")
    file.write_bytes(pickle.dumps(Calls(eval, deed(path))))
    return str(file)


def checkpoint_that_does_it(path: Path) -> bytes:
    content = io.BytesIO()
    torch.save(Calls(eval, deed(path)), content, _use_new_zipfile_serialization=False)
    return content.getvalue()


# each makes the file `path` when Python's own pickle reads it
HOSTILE: dict[str, Callable[[Path], Any]] = {
    "os.system": lambda path: Calls(os.system, f"touch {path}"),
    "eval": lambda path: Calls(eval, deed(path)),
    "exec": lambda path: Calls(exec, deed(path)),
    "open": lambda path: Calls(open, str(path), "w"),
    "subprocess": lambda path: Calls(subprocess.run, ["touch", str(path)]),
    "methodcaller": lambda path: Calls(map, operator.methodcaller("touch"), [path], state=Calls(eval, deed(path))),
    "numpy.load": lambda path: Calls(np.load, file_that_does_it(path), None, True),
    "numpy array of objects": lambda path: np.array([Calls(eval, deed(path)), None], dtype=object),
    "numpy.testing": lambda path: Calls(np.testing._private.utils.runstring, deed(path), {}),
    "torch storage": lambda path: Calls(torch.storage._load_from_bytes, checkpoint_that_does_it(path)),
    "ordered dictionary": lambda path: OrderedDict(a=Calls(eval, deed(path))),
    "state": lambda path: Calls(OrderedDict, state={"x": Calls(eval, deed(path))}),
    "deep": lambda path: [{"a": ([Calls(eval, deed(path))],)}],
}


@pytest.mark.parametrize("save", PICKLED.values(), ids=PICKLED)
@pytest.mark.parametrize("name", HOSTILE)
def test_pickled_code_is_not_run(tmp_path: Path, name: str, save: Callable[[Any, Path], None]) -> None:
    made = tmp_path / "made"
    payload = HOSTILE[name](made)
    for place, checkpoint in {
        "top": payload,
        "beside": {"model": small_weights(), "meta": payload},
        "weight": {"model": {**small_weights(), "plain": payload}},
        "nested": {"model": small_weights(), "optimizer": {"state": [{"step": payload}]}},
    }.items():
        path = tmp_path / f"{place}.pth"
        save(checkpoint, path)
        with pytest.raises(CheckpointError, match="which is code and no data; nothing of it was run") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert not made.exists(), place


@pytest.mark.parametrize("name", HOSTILE)
def test_the_payloads_are_live(tmp_path: Path, name: str) -> None:
    """The test above relies on them: pickle itself runs each one."""
    made = tmp_path / "made"
    content = pickle.dumps(HOSTILE[name](made))
    try:
        pickle.loads(content)
    except (TypeError, AttributeError, pickle.UnpicklingError):
        if name == "torch storage":
            pytest.skip("torch's own door is closed by now")
    assert made.exists()


# assembled by hand: opcodes that Python's pickler does not write for such things
ASSEMBLED = {
    "global": b"\x80\x02cos\nsystem\nU\x0btouch made/x\x85R.",
    "instance": b"\x80\x02(S'touch made/x'\nios\nsystem\n.",
    "object": b"\x80\x02(cos\nsystem\nU\x0ctouch made/x\x94o.",
    "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch made/x\x85R.",
    "new object": b"\x80\x02csubprocess\nPopen\nU\x04true\x85\x81.",
    "new object with names": b"\x80\x04\x8c\nsubprocess\x8c\x05Popen\x93\x8c\x04true\x85}\x92.",
    "attribute of a module": b"\x80\x04\x8c\x08builtins\x8c\x0eos.path.exists\x93.",
    "unknown module": b"\x80\x02cthis\ns\n.",
    "module of a harmless library": b"\x80\x02cmmengine.utils\nexecute\n)R.",
    "imports by a harmless name": b"\x80\x02cnumpy.f2py.crackfortran\nmyeval\nU\x011\x85R.",
}


@pytest.mark.parametrize("name", ASSEMBLED)
def test_assembled_pickles_are_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made"
    made.mkdir()
    modules = set(sys.modules)
    path = tmp_path / "assembled.pkl"
    path.write_bytes(ASSEMBLED[name])
    with pytest.raises(CheckpointError, match="which is code and no data") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not list(made.iterdir())
    assert not {"this", "mmengine.utils", "numpy.f2py.crackfortran"} & (set(sys.modules) - modules)


MALFORMED = {
    "calls a string": b"\x80\x02U\x02os)R.",
    "calls the result of a call": b"\x80\x02cargparse\nNamespace\n)R)R.",
    "calls with no tuple": b"\x80\x02cargparse\nNamespace\n]R.",
    "gives a name a state": b"\x80\x02ccollections\nOrderedDict\n}U\x07__new__U\x01xsb.",
    "gives a number a state": b"\x80\x02K\x01}b.",
    "fills a name": b"\x80\x02ccollections\nOrderedDict\nU\x01aK\x01s.",
    "appends to a tuple": b"\x80\x02)K\x01a.",
    "an odd number of items": b"\x80\x02}(K\x01u.",
    "nothing on the stack": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "no such memo": b"\x80\x02h\x07.",
    "no end": b"\x80\x02}",
    "unknown opcode": b"\x80\x02\xff.",
    "more than there is": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "more than there could be": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "bytes of a number": b"\x80\x02c_codecs\nencode\nJ\xff\xff\xff\x7f\x85R.",
    "an ordered dictionary of numbers": b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
    "a tensor of no storage": b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))\x89)tRs.",
    "storage outside of an archive": b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x01tQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "a buffer from elsewhere": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_pickles_are_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))  # type: ignore[attr-defined]
    path = tmp_path / "malformed.pkl"
    path.write_bytes(MALFORMED[name])
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def array_pickle(dtype: bytes, flags: bytes, content: bytes) -> bytes:
    """An array of one element, type and state as given: numpy's own `__setstate__` would believe them."""
    size = len(content).to_bytes(1, "little")
    return (
        b"\x80\x02}U\x06weightcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02" + dtype + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xff" + flags + b"tb\x89U" + size + content + b"tbs."
    )


@pytest.mark.parametrize(
    ("dtype", "flags", "content"),
    [
        (b"O8", b"K\x3f", b"\x00" * 8),
        (b"O8", b"K\x00", b"\x41" * 8),  # eight bytes that would be taken for the address of an object
        (b"V8", b"K\x00", b"\x00" * 8),
        (b"f4", b"K\x00", b"\x00" * 3),
        (b"f4", b"K\x00", b"\x00" * 8),
    ],
)
def test_an_array_is_numbers_of_its_shape_or_nothing(
    tmp_path: Path, dtype: bytes, flags: bytes, content: bytes
) -> None:
    path = tmp_path / "array.pkl"
    path.write_bytes(array_pickle(dtype, flags, content))
    with pytest.raises(CheckpointError, match="cannot be read"):
        as_tensor(weights_of(read_checkpoint(path), "it")["weight"], "'weight'")
    path.write_bytes(array_pickle(b"f4", b"K\x00", b"\x00\x00\x80\x3f"))
    assert as_tensor(read_checkpoint(path)["weight"], "'weight'").tolist() == [1.0]


def test_nesting_without_end_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    depth = 100_000
    for name, content in {
        "tuples": b"\x80\x02)" + b"\x85" * depth + b".",
        "keys": b"\x80\x02})" + b"\x85" * depth + b"K\x01s.",
        "lists": b"\x80\x02]" + b"(]" * depth + b"e" * depth + b".",
        "itself": b"\x80\x02}q\x00U\x05modelh\x00s.",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            weights_of(read_checkpoint(path), name)
        assert "\n" not in str(caught.value)
