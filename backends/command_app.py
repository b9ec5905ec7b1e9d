"""Commands in which a flag that is given twice is a mistake, unless it is one that repeats."""

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from backends.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


class _Once(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(map(id, given)).items():
            named = next(one for one in given if id(one) == parameter)
            if count > 1 and named.param_type_name == "option" and not getattr(named, "multiple", False):
                raise UsageError(f"{named.opts[0]} is given {count} times: give it once")
        return super().parse_args(ctx, args)


class CommandApp(typer.Typer):
    """A Typer whose commands are so."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[Command], Command]:
        return super().command(name, cls=_Once, **more)
