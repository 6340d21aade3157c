"""Commands whose options are the fields of a settings dataclass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, replace
from inspect import Parameter, Signature
from typing import Annotated, Any, TypeVar

import typer

from dyzoo.config.settings import SettingField, setting_fields
from dyzoo.config.values import Range

SettingsT = TypeVar("SettingsT")


def takes_settings(settings_type: type[SettingsT]) -> Callable[[Callable[[SettingsT], None]], Callable[..., None]]:
    """Make a command of a function that is called with settings: every field becomes an option.

    The fields of a group of settings stand among the others. Settings that the class refuses are a wrong option.

    Raises:
        TypeError: a field has no `Setting`.
    """
    options = {field.name: field for field in flat_fields(settings_type)}
    parameters = [
        Parameter(
            name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=Annotated[field.type, option(field)],
        )
        for name, field in options.items()
    ]

    def decorate(function: Callable[[SettingsT], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            try:
                settings = assemble(settings_type, values)
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
            function(settings)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def option(field: SettingField) -> Any:
    """The option of a field, as the annotation of a command's parameter.

    Raises:
        TypeError: the field has no `Setting`.
    """
    setting = field.setting
    if setting is None:
        raise TypeError(f"{field.name} has no Setting, expected one: it is the text of the option")
    name = setting.option or f"--{field.name.replace('_', '-')}"
    if field.default is True:
        name += f"/--no-{name.removeprefix('--')}"
    return typer.Option(
        name,
        *filter(None, [setting.short]),
        metavar=setting.metavar or _metavar(field),
        help=setting.help,
        show_default=setting.left_open or True,
    )


def option_of(settings_type: type, name: str) -> Any:
    """The option of one field, for a command that has others besides."""
    return option(next(field for field in setting_fields(settings_type) if field.name == name))


def flat_fields(settings_type: type) -> list[SettingField]:
    """The fields of settings, with those of a group, as the group is by default, in the group's place."""
    flat: list[SettingField] = []
    for field in setting_fields(settings_type):
        if field.is_group:
            flat += [replace(inner, default=getattr(field.default, inner.name)) for inner in flat_fields(field.type)]
        else:
            flat.append(field)
    return flat


def assemble(settings_type: type[SettingsT], values: dict[str, Any]) -> SettingsT:
    """Settings from the values of all fields by name, those of groups among them.

    Raises:
        ValueError: the class refuses them.
    """
    return settings_type(
        **{
            field.name: assemble(field.type, values) if field.is_group else values[field.name]
            for field in setting_fields(settings_type)
        }
    )


def _metavar(field: SettingField) -> str | None:
    if field.limit == Range(0, 1):
        return "0..1"
    return {int: "N", int | None: "N", float: "X", float | None: "X"}.get(field.type)
