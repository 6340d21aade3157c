"""Pickles read as data: an interpreter of their opcodes that imports nothing and calls nothing that they name.

A pickle is a program that has functions of any module called while it is read. Here a name stays a `Name`. The few that
rebuild arrays and tensors stand in a table of functions of our own; an object of a harmless class becomes an `Inert`;
any other name is refused. So no file can run code, whatever opcodes it is made of.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Calls = Mapping[str, Callable[..., Any]]
"""Full name of a function or class -> what stands in for it when a pickle calls it."""


class Refused(Exception):
    """A pickle asks for something that is no data; the text completes the sentence "FILE ..."."""


class Buildable(Protocol):
    """An object that a pickle may give a state to, beside containers and inert objects, which ignore it."""

    def build(self, state: Any) -> None: ...


class Stream(Protocol):
    """A source of pickles: a memory-mapped file, or bytes in a `BytesIO`."""

    def read(self, count: int = ..., /) -> bytes: ...
    def readline(self) -> bytes: ...


class Name:
    """The full dotted name of a class or function; nothing is imported."""

    def __init__(self, full: str) -> None:
        self.full = full


class Inert:
    """An object of a class that does not matter: it knows its class's name and ignores what is done to it."""

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name


# Classes that checkpoints hold beside their weights (settings, logs, states of optimizers), never to be built.
_HARMLESS = re.compile(
    r"""(mmengine|mmcv|mmdet|addict|detectron2|fvcore|yacs|omegaconf)(\.\w+)*\.[A-Z]\w*
    | collections\.(OrderedDict|defaultdict|Counter|deque)
    | (builtins|__builtin__)\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|long|object|range|set|slice
                              |str|tuple|unicode)
    | (copyreg|copy_reg)\._reconstructor
    | datetime\.(date|datetime|time|timedelta|timezone)
    | pathlib(\._local)?\.(Pure)?(Posix|Windows)?Path
    | argparse\.Namespace
    | numpy\.(ndarray|dtype|bool_?|[a-z]*(int|float|complex)\d*_?)
    | torch\.(Size|device|dtype|Tensor|bool|(cuda\.)?[A-Z][A-Za-z0-9]*(Storage|Tensor)
             |b?float\d*|u?int\d*|complex\d*|half|double|long|short)
    | torch\.storage\.\w+Storage
    | torch\.nn\.parameter\.Parameter""",
    re.VERBOSE,
)

_LITERALS = re.compile(
    r"INT|LONG[14]?|BININT[12]?|FLOAT|BINFLOAT|BYTEARRAY8"
    r"|(SHORT_)?BIN(STRING|UNICODE|BYTES)|BIN(UNICODE|BYTES)8|STRING|UNICODE"
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_KEYS = (str, int, float, bytes)  # types of dictionary keys; hashing nested tuples could exhaust the stack


def latin1_bytes(text: str | bytes | bytearray = b"", encoding: str = "latin1") -> bytes | bytearray:
    """Bytes that Python 2, or protocol 2 of Python 3, has written as a string."""
    if isinstance(text, str):
        return text.encode("latin1")
    if not isinstance(text, bytes | bytearray):
        raise TypeError("no bytes")
    return text


def _mapping(pairs: Any = ()) -> dict[Any, Any]:
    items = pairs.items() if isinstance(pairs, dict) else pairs
    return {key: value for key, value in items if isinstance(key, _KEYS)}


_CALLS: Calls = {
    "_codecs.encode": latin1_bytes,
    "builtins.bytes": latin1_bytes,
    "__builtin__.bytes": latin1_bytes,
    "collections.OrderedDict": _mapping,
}


def read_pickle(stream: Stream, calls: Calls, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The object that the pickle at the stream's position describes; the stream is left behind its end.

    Args:
        stream: where to read.
        calls: stand-ins for the names that may be called with a result that matters.
        persistent: gives the object that a persistent id stands for; without it such ids are refused.

    Raises:
        Refused: the pickle names something that is neither in `calls` nor a harmless class.
        Exception: it is damaged; many types, each to be taken as that.
    """
    return _Interpreter({**_CALLS, **calls}, persistent).run(stream)


class _Interpreter:
    def __init__(self, calls: Calls, persistent: Callable[[Any], Any] | None) -> None:
        self.calls = calls
        self.persistent = persistent
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self, stream: Stream) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            name = opcode.name
            if _LITERALS.fullmatch(name):
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name == "STOP":
                return self.stack.pop()
            else:
                self.step(name, argument)
        raise ValueError("no end of the pickle")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "POP":
                if stack:
                    stack.pop()
                else:
                    self.since_mark()
            case "POP_MARK":
                self.since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.replace_top(int(name[-1]), tuple)
            case "TUPLE":
                items = self.since_mark()
                self.stack.append(tuple(items))
            case "EMPTY_LIST":
                stack.append([])
            case "LIST":
                items = self.since_mark()
                self.stack.append(items)
            case "APPEND":
                self.extend([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self.extend(self.since_mark())
            case "EMPTY_SET":
                stack.append(Inert("builtins.set"))
            case "FROZENSET":
                self.since_mark()
                self.stack.append(Inert("builtins.frozenset"))
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = self.since_mark()
                self.stack.append(_mapping(list(zip(items[::2], items[1::2], strict=True))))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.update([key, value])
            case "SETITEMS":
                self.update(self.since_mark())
            case "GLOBAL":
                self.push_name(*argument.split(" "))
            case "STACK_GLOBAL":
                qualified, module = stack.pop(), stack.pop()
                self.push_name(module, qualified)
            case "REDUCE" | "NEWOBJ":
                arguments, called = stack.pop(), stack.pop()
                stack.append(self.call(called, arguments))
            case "NEWOBJ_EX":
                _, arguments, called = stack.pop(), stack.pop(), stack.pop()
                stack.append(self.call(called, arguments))
            case "INST":
                arguments = self.since_mark()
                self.push_name(*argument.split(" "))
                self.stack.append(self.call(self.stack.pop(), tuple(arguments)))
            case "OBJ":
                called, *arguments = self.since_mark()
                self.stack.append(self.call(called, tuple(arguments)))
            case "BUILD":
                state, built = stack.pop(), stack[-1]
                if not isinstance(built, dict | list | Inert):
                    built.build(state)
            case "BINPERSID":
                stack.append(self.referred(stack.pop()))
            case "PERSID":
                stack.append(self.referred(argument))
            case _:
                raise Refused(f"uses the opcode {name}, which no checkpoint needs")

    def since_mark(self) -> list[Any]:
        """Take all that was pushed since the last mark."""
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def replace_top(self, count: int, make: Callable[[list[Any]], Any]) -> None:
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError("the stack is too short")
        del self.stack[-count:]
        self.stack.append(make(items))

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target += items
        elif not isinstance(target, Inert):
            raise TypeError("no list to append to")

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(_mapping(list(zip(items[::2], items[1::2], strict=True))))
        elif not isinstance(target, Inert):
            raise TypeError("no dictionary to fill")

    def push_name(self, module: str, qualified: str) -> None:
        full = f"{module}.{qualified}"
        if full not in self.calls and not _HARMLESS.fullmatch(full):
            raise Refused(f"asks for {full!r:.100}, which is code and no data; nothing of it was run")
        self.stack.append(Name(full))

    def call(self, called: Any, arguments: Any) -> Any:
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that has no name")
        function = self.calls.get(called.full)
        return Inert(called.full) if function is None else function(*arguments)

    def referred(self, reference: Any) -> Any:
        if self.persistent is None:
            raise Refused("refers to objects outside of itself")
        return self.persistent(reference)
