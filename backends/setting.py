"""Flags: a setting is a field of a frozen dataclass that says everything about its flag, its bounds and its place."""

import math
from dataclasses import MISSING, field
from typing import Any

from backends.errors import UsageError


def setting(
    default: Any = MISSING,
    help: str = "",
    panel: str | None = None,
    *,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
    compared: bool = False,
    was: tuple[Any, ...] = (),
    stored: bool = True,
    listed: bool = False,
    envvar: tuple[str, ...] = (),
    secret: bool = False,
    short: str | None = None,
) -> Any:
    """A dataclass field with its setting in `metadata`; without a default it is required.

    above     the value is above this number; `low` and `high` are the least and the greatest that it may be
    compared  a run is only resumed under the same value; `was` are earlier defaults, which count as today's
    stored    kept in `run.json`, so that `resume` and Studio repeat it
    listed    a tuple that is given as one value, parted by commas; else its flag is repeated
    envvar    the variables that set it where its flag is not given, in order of choice
    secret    never stored, never in a `repr`
    short     another name of the flag, `-v`
    """
    about = {
        "help": help, "panel": panel, "above": above, "low": low, "high": high, "compared": compared,
        "was": was, "stored": stored and not secret, "listed": listed, "envvar": envvar, "short": short,
    }  # fmt: skip
    given: Any = {"default_factory": lambda: dict(default)} if isinstance(default, dict) else {"default": default}
    return field(**given, metadata={"setting": about}, repr=not secret)


def option(
    help_text: str,
    panel: str | None = None,
    *names: str,
    low: float | None = None,
    high: float | None = None,
    **more: Any,
) -> Any:
    """A flag of a command that is no setting of a run; `names` where they are not those of the parameter. A number is
    from `low` to `high`.
    """
    import typer

    def bounded(parameter: typer.CallbackParam, value: float | None) -> float | None:
        if value is not None and not (low if low is not None else -math.inf) <= value <= (high or math.inf):
            wanted = f"from {low:g} to {high:g}" if high is not None else f"not below {low:g}"
            raise UsageError(f"{parameter.opts[0]} {value}: give a number {wanted}")
        return value

    if low is not None or high is not None:
        more["callback"] = bounded
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)
