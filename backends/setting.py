"""Flags: a setting is a field of a frozen dataclass that says everything about its flag, its bounds and its place."""

from dataclasses import MISSING, field
from typing import Any


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


def option(help_text: str, panel: str | None = None, *names: str, **more: Any) -> Any:
    """A flag of a command that is no setting of a run; `names` where they are not those of the parameter."""
    import typer

    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)
