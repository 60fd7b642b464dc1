"""Commands whose parameters come in groups.

Rule of this file: a parameter whose type is a dataclass stands for one option per field, so that what several
commands share (the store, the conditions of a query) is written once. The rest is typer's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from durable.cli.exits import ExitCode, drop_output, report
from durable.host_loop import host_runner

Command = Callable[..., Coroutine[Any, Any, ExitCode | None]]
_DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def add_commands(app: typer.Typer, commands: Mapping[str, Command]) -> None:
    """Register async functions as commands, by name.

    Each gets the option ``--debug``. What it raises becomes a line on stderr and an exit code.
    """
    for name, function in commands.items():
        app.command(name)(_as_typer_wants(function))


def _as_typer_wants(function: Command) -> Callable[..., None]:
    hints = get_type_hints(function, include_extras=True)
    groups = {key: hint for key, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}

    def run(**values: Any) -> None:
        debug = bool(values.pop("debug"))
        for key, group in groups.items():
            values[key] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        code = _run(function, values, debug)
        if code is not ExitCode.OK:
            raise typer.Exit(code)

    run.__doc__ = function.__doc__
    run.__signature__ = _signature(function, hints, groups)  # type: ignore[attr-defined]
    run.__annotations__ = {}
    return run


def _signature(function: Command, hints: dict[str, Any], groups: dict[str, type[Any]]) -> inspect.Signature:
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in groups:
            parameters += _options(groups[parameter.name])
        else:
            parameters.append(_keyword(parameter.name, parameter.default, hints[parameter.name]))
    parameters.append(_keyword("debug", False, _DEBUG))
    return inspect.Signature(parameters)


def _options(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        _keyword(
            field.name,
            inspect.Parameter.empty if field.default is MISSING else field.default,
            hints[field.name],
        )
        for field in fields(group)
    ]


def _keyword(name: str, default: Any, hint: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _run(function: Command, values: dict[str, Any], debug: bool) -> ExitCode:
    try:
        with host_runner() as runner:
            return runner.run(function(**values)) or ExitCode.OK
    except BrokenPipeError:
        drop_output()
        return ExitCode.OK
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        return report(error, debug=debug)
