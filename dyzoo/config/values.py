"""Plain values of JSON as the fields of a frozen dataclass: types, choices and ranges are checked, one error a line."""

from __future__ import annotations

import reprlib
import types
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dyzoo.errors import CheckpointError


@dataclass(frozen=True)
class Range:
    """Values that a number may have, or the length of a text or a tuple.

    A configuration comes with strangers' weights. What it can make a detector allocate is bounded by these, far above
    what is of use.

    Attributes:
        lowest, highest: ends that belong to it.
        above, below: ends that do not, in the place of `lowest` and `highest`.
    """

    lowest: float | None = None
    highest: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            number == number  # not so for NaN
            and (self.lowest is None or self.lowest <= number)
            and (self.highest is None or number <= self.highest)
            and (self.above is None or self.above < number)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        if self.lowest is not None and self.highest is not None:
            return f"{self.lowest:.12g} to {self.highest:.12g}"
        words = {"more than": self.above, "at least": self.lowest, "less than": self.below, "at most": self.highest}
        return " and ".join(f"{word} {end:.12g}" for word, end in words.items() if end is not None)


_representation = reprlib.Repr()
_representation.maxstring = _representation.maxother = _representation.maxlong = 60
shown = _representation.repr

ConfigT = TypeVar("ConfigT")


def build(config_type: type[ConfigT], values: dict[str, Any], prefix: str) -> ConfigT:
    """Build a frozen dataclass from plain JSON values; `prefix` goes before the names of its fields in errors."""
    hints = get_type_hints(config_type, include_extras=True)
    known = {f.name for f in fields(config_type)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise CheckpointError(
            f"{prefix.rstrip('.: ')}: unknown setting {shown(unknown[0])}, expected some of {', '.join(sorted(known))}"
        )
    required = {f.name for f in fields(config_type) if f.default is f.default_factory is MISSING}  # type: ignore[arg-type]
    if missing := sorted(required - set(values)):
        raise CheckpointError(
            f"{prefix.rstrip('.: ')}: {missing[0]} is missing, expected {', '.join(sorted(required))}"
        )
    return config_type(**{name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise CheckpointError(f"{where} is {shown(value)}, expected an object of settings")
        return build(typing.cast(type, hint), value, f"{where}.")
    origin = get_origin(hint)
    if origin is Annotated:
        limit = hint.__metadata__[0]
        if isinstance(value, str | list | tuple):
            _check_length(value, limit, where)  # before anything is made of its items
            return _convert(hint.__origin__, value, where)
        number = _convert(hint.__origin__, value, where)
        if number not in limit:
            raise CheckpointError(f"{where} is {shown(value)}, expected {limit}")
        return number
    if origin is Literal:
        if not any(type(value) is type(choice) and value == choice for choice in get_args(hint)):
            raise CheckpointError(f"{where} is {shown(value)}, expected one of {', '.join(map(repr, get_args(hint)))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        item_hints = get_args(hint)
        if item_hints[-1] is Ellipsis:
            item_hints = (item_hints[0],) * len(value)
        if len(item_hints) == len(value):
            return tuple(_convert(item, v, where) for item, v in zip(item_hints, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        members = tuple(member for member in get_args(hint) if member is not types.NoneType)
        if value is None and len(members) < len(get_args(hint)):
            return None
        return _convert(members[0] if len(members) == 1 else _member(members, value, where), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) > 1 << 53 else float(value)  # so large that it may be no float, and in no range
    if hint is str and isinstance(value, str):
        return _encodable(value, where)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise CheckpointError(f"{where} is {shown(value)}, expected {getattr(hint, '__name__', hint)}")


def _check_length(value: str | list[Any] | tuple[Any, ...], limit: Range, where: str) -> None:
    if len(value) not in limit:
        kind = "characters" if isinstance(value, str) else "items"
        raise CheckpointError(f"{where} has {len(value)} {kind}, expected {limit}")


def _encodable(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{where} is {shown(value)}, expected text (it holds half a character)") from None
    return value


def _member(union: tuple[Any, ...], value: Any, where: str) -> Any:
    """The dataclass of a union whose `type` is that of `value`."""
    by_type = {get_args(get_type_hints(member)["type"])[0]: member for member in union}
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is {shown(value)}, expected an object of settings")
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in by_type:
        raise CheckpointError(f"{where}.type is {shown(kind)}, expected one of {', '.join(by_type)}")
    return by_type[kind]
