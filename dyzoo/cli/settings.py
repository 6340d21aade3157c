"""Commands whose options are the fields of a settings dataclass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, replace
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar

import typer

from dyzoo.config.settings import SettingField, setting_fields
from dyzoo.config.values import Range

SettingsT = TypeVar("SettingsT")


def takes_settings(
    settings_type: type[SettingsT], leave_out: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose first parameter are settings: every field becomes an option.

    The fields of a group of settings stand among the others. Settings that the class refuses are a wrong option.
    Further parameters of the function are options of its own, before the others; one of them that is called as a field
    takes the place of the field's option, and the settings have the default.

    Args:
        settings_type: the class of the settings.
        leave_out: fields that are no options and have their defaults.

    Raises:
        TypeError: a field has no `Setting`.
    """
    made = {field.name: (field, option(field)) for field in flat_fields(settings_type) if field.name not in leave_out}

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = signature(function, eval_str=True).parameters.values()
        names = {parameter.name for parameter in own}
        options = {name: each for name, each in made.items() if name not in names}
        parameters = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
        parameters += [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if field.default is MISSING else field.default,
                annotation=Annotated[field.type, made_option],
            )
            for name, (field, made_option) in options.items()
        ]

        def command(**values: Any) -> None:
            try:
                settings = assemble(settings_type, {name: values.pop(name) for name in options})
            except ValueError as error:
                raise typer.BadParameter(str(error)) from None
            function(settings, **values)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def option(field: SettingField, shown: str = "") -> Any:
    """The option of a field, as the annotation of a command's parameter.

    Args:
        field: whose option.
        shown: the default as --help says it, where the parameter's own would not tell.

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
        show_default=shown or setting.left_open or True,
    )


def option_of(settings_type: type, name: str, shown: str = "") -> Any:
    """The option of one field, for a command that has others besides; `shown` as for `option`."""
    return option(next(field for field in setting_fields(settings_type) if field.name == name), shown)


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
    """Settings from the values of fields by name, those of groups among them; others have their defaults.

    Raises:
        ValueError: the class refuses them.
    """
    return settings_type(
        **{
            field.name: assemble(field.type, values) if field.is_group else values[field.name]
            for field in setting_fields(settings_type)
            if field.is_group or field.name in values
        }
    )


def _metavar(field: SettingField) -> str | None:
    if field.limit == Range(0, 1):
        return "0..1"
    return {int: "N", int | None: "N", float: "X", float | None: "X"}.get(field.type)
