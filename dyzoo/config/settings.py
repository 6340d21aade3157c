"""The fields of a settings dataclass: each carries its type, range and text, and all else is made from them.

    lr: Annotated[float, Range(above=0), Setting("Peak learning rate.")] = 1e-3

is a checked value, a line of the class's docstring and the option `--lr` of the command that takes the class.
"""

from __future__ import annotations

import textwrap
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from dyzoo.config.values import Range

_DOCSTRING_WIDTH = 100

ClassT = TypeVar("ClassT", bound=type)


@dataclass(frozen=True)
class Setting:
    """The text of a field.

    Attributes:
        help: the first sentences, all that a command's --help shows.
        more: further sentences for the docstring.
        option: name on the command line; empty: `--` and the field's, with hyphens.
        short: another name of one letter, "-m".
        metavar: the value's place in --help; empty: by type and range.
        left_open: the choice that is made in place of None.
    """

    help: str
    more: str = ""
    option: str = ""
    short: str = ""
    metavar: str = ""
    left_open: str = ""

    @property
    def text(self) -> str:
        """All that is to be said, as one paragraph."""
        return " ".join(filter(None, [self.help, self.more, self.left_open and f"None: {self.left_open}."]))


@dataclass(frozen=True)
class SettingField:
    """A field of a settings dataclass.

    Attributes:
        name: as in Python.
        type: without the annotations; a settings dataclass where a group of settings is meant.
        default: MISSING where a value has to be given.
        limit: values it may have; None: all of its type.
        setting: its text; None: it has none.
    """

    name: str
    type: Any
    default: Any
    limit: Range | None
    setting: Setting | None

    @property
    def is_group(self) -> bool:
        """Whether its value is a settings dataclass itself."""
        return is_dataclass(self.type)


def setting_fields(config_type: type) -> tuple[SettingField, ...]:
    """The fields of a settings dataclass, in their order.

    A field that a subclass declares again, with a narrower type, keeps what the subclass does not say anew.
    """
    known: dict[str, SettingField] = {}
    for base in reversed(config_type.__mro__):
        if not is_dataclass(base):
            continue
        hints = get_type_hints(base, include_extras=True)
        for field in fields(base):
            hint = hints[field.name]
            kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
            own = SettingField(field.name, kind, _default(field), _first(extras, Range), _first(extras, Setting))
            if older := known.get(field.name):
                own = replace(own, limit=own.limit or older.limit, setting=own.setting or older.setting)
            known[field.name] = own
    return tuple(known.values())


def check_ranges(config: Any) -> None:
    """Compare a settings dataclass's numbers with their ranges; None is in all of them.

    Raises:
        ValueError: one is out of its range.
    """
    for field in setting_fields(type(config)):
        value = getattr(config, field.name)
        if field.limit is not None and value is not None and value not in field.limit:
            raise ValueError(f"{field.name} is {value}, expected {field.limit}")


def documented(config_type: ClassT) -> ClassT:
    """Append the texts of the fields to the docstring of a settings dataclass."""
    entries = [
        textwrap.fill(
            f"{field.name}: {field.setting.text}",
            _DOCSTRING_WIDTH,
            initial_indent=" " * 4,
            subsequent_indent=" " * 8,
            break_on_hyphens=False,
        )
        for field in setting_fields(config_type)
        if field.setting is not None
    ]
    if config_type.__doc__ is not None:  # there is none under `python -OO`
        config_type.__doc__ = "\n".join([config_type.__doc__.rstrip(), "", "Attributes:", *entries, ""])
    return config_type


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _first(extras: list[Any], kind: type) -> Any:
    return next((extra for extra in extras if isinstance(extra, kind)), None)
