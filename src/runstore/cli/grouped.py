"""Groups of options that several commands share, so that each option is said once.

A group is a dataclass whose fields are options. A command that is decorated with `grouped` may have
parameters of such a type: its options become options of the command.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


def grouped(command: Callable[..., T]) -> Callable[..., T]:
    """The command with the options of its groups in the place of the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            groups[parameter.name] = kind
            parameters += _options_of(kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))

    def with_groups(**given: Any) -> T:
        for name, kind in groups.items():
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
        return command(**given)

    with_groups.__name__, with_groups.__doc__ = command.__name__, command.__doc__
    with_groups.__module__ = command.__module__
    annotations = {each.name: each.annotation for each in parameters} | {"return": hints.get("return")}
    with_groups.__annotations__ = annotations
    vars(with_groups)["__signature__"] = inspect.Signature(parameters)
    return with_groups


def _options_of(kind: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]
