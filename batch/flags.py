"""What follows from the fields of the settings: flags, `run.json`, bounds, and what a resume compares."""

import inspect
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from backends.errors import UsageError
from batch.remote import place

Config = TypeVar("Config")


def flat(kind: type) -> Iterator[tuple[Field[Any], Any]]:
    """(field, type) of each setting of a dataclass and of the dataclasses in it."""
    hints = get_type_hints(kind)
    for item in fields(kind):
        if is_dataclass(hints[item.name]):
            yield from flat(hints[item.name])
        elif "setting" in item.metadata:
            yield item, hints[item.name]


def values(config: Any) -> dict[str, Any]:
    """The value of each setting by its name."""
    found: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            found |= values(value)
        elif "setting" in item.metadata:
            found[item.name] = value
    return found


def build(kind: type[Config], given: Mapping[str, Any]) -> Config:
    """A configuration from settings by name; what is not given has its default."""
    hints = get_type_hints(kind)
    parts = {
        item.name: build(hints[item.name], given) if is_dataclass(hints[item.name]) else given[item.name]
        for item in fields(kind)  # type: ignore[arg-type]
        if is_dataclass(hints[item.name]) or item.name in given
    }
    return kind(**parts)


def changed(config: Config, **given: Any) -> Config:
    """The configuration with other values for some settings."""
    parts = {item.name: getattr(config, item.name) for item in fields(config)}  # type: ignore[arg-type]
    new = {
        name: changed(part, **given) if is_dataclass(part) else given[name]
        for name, part in parts.items()
        if is_dataclass(part) or name in given
    }
    return replace(config, **new)  # type: ignore[type-var]


def to_dict(config: Any) -> dict[str, Any]:
    """The stored settings as flat JSON; paths are made absolute, secrets are left out."""
    stored = {item.name for item, _ in flat(type(config)) if _about(item)["stored"]}
    return {name: _as_json(value) for name, value in values(config).items() if name in stored}


def from_dict(kind: type[Config], stored: Mapping[str, Any]) -> Config:
    """From what `to_dict` wrote, in this version or an earlier one. Raises UsageError when it was not that."""
    hints = {item.name: hint for item, hint in flat(kind)}
    if unknown := [name for name in stored if name not in hints]:
        raise UsageError(f"the run's stored options do not fit this version: it knows no {', '.join(unknown)}")
    try:
        return build(kind, {name: _from_json(hints[name], value) for name, value in stored.items()})
    except TypeError as error:
        raise UsageError(f"the run's stored options do not fit this version: {error}") from error


def from_environment(kind: type) -> dict[str, Any]:
    """What the environment says of settings whose flags are not given."""
    found: dict[str, Any] = {}
    for item, hint in flat(kind):
        if value := next(filter(None, map(os.environ.get, _about(item)["envvar"])), None):
            found[item.name] = tuple(value.split()) if _is_tuple(hint) else value
    return found


def compared(config: Any) -> dict[str, Any]:
    """The settings that decide what a trajectory is, as JSON."""
    names = {item.name for item, _ in flat(type(config)) if _about(item)["compared"]}
    return {name: _as_json(value) for name, value in values(config).items() if name in names}


def defaults(kind: type) -> dict[str, Any]:
    """The default of each setting, as JSON."""
    return {
        item.name: _as_json(item.default if item.default_factory is MISSING else item.default_factory())
        for item, _ in flat(kind)
    }


def differences(kind: type, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The names of `ours` under which a stored run has another value. One that the run does not name had its default
    of then, and what was a default then is as today's.
    """
    by_default = defaults(kind)
    earlier = {item.name: list(map(_as_json, _about(item)["was"])) for item, _ in flat(kind)}
    found = {name: theirs.get(name, by_default.get(name)) for name in ours}
    found |= {name: by_default[name] for name in found if found[name] in earlier.get(name, ())}
    return [name for name in ours if found[name] != ours[name]]


def check(config: Any) -> None:
    """Raises UsageError for a value out of its bounds."""
    settings = {item.name: item for item, _ in flat(type(config))}
    for name, value in values(config).items():
        if not isinstance(value, int | float):
            continue
        about, flag = _about(settings[name]), f"--{name.replace('_', '-')} {value}"
        low, high = about["low"], about["high"]
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{flag}: give a number")
        if about["above"] is not None and value <= about["above"]:
            raise UsageError(f"{flag}: give a number above {about['above']:g}")
        if (low is not None and value < low) or (high is not None and value > high):
            least = low if low is not None else about["above"] or 0
            raise UsageError(f"{flag}: give a number {f'from {least:g} to {high:g}' if high else f'not below {low:g}'}")


def with_flags(
    kind: type[Config], *, optional: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose first argument is a `kind`: a flag for each setting; its other arguments are
    flags of the command alone. A setting that is `optional` has this default here.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        settings = list(flat(kind))
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        def call(**given: Any) -> None:
            rest = {one.name: given[one.name] for one in own}
            found = {item.name: _from_flag(item, hint, given[item.name]) for item, hint in settings}
            command(build(kind, found), **rest)

        parameters = [_parameter(item, hint, (optional or {}).get(item.name, MISSING)) for item, hint in settings]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {one.name: one.annotation for one in parameters}
        call.__doc__, call.__name__ = command.__doc__, command.__name__
        return call

    return decorated


def listed_names(listed: str) -> tuple[str, ...]:
    """The names in a flag's value, parted by commas."""
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _default(item: Field[Any]) -> Any:
    return item.default


def _about(item: Field[Any]) -> dict[str, Any]:
    about: dict[str, Any] = item.metadata["setting"]
    return about


def _parameter(item: Field[Any], hint: Any, optional: Any) -> inspect.Parameter:
    """A setting as the parameter that Typer makes a flag of; `optional` is its default where it has none."""
    import typer

    about, dashed = _about(item), item.name.replace("_", "-")
    default: Any = item.default
    names, kind = (f"--{dashed}", *([about["short"]] if about["short"] else [])), hint
    shown = {"help": about["help"], "rich_help_panel": about["panel"], "envvar": list(about["envvar"]) or None}
    if hint is bool:
        names, shown["show_default"] = ((f" /--no-{dashed}",) if default else names), False
    elif hint == Path | str:
        kind, shown = str, {**shown, "parser": place, "metavar": "PATH"}
    elif _is_object(hint):
        kind, default, shown = str | None, None, {**shown, "parser": _json_object, "metavar": "JSON"}
    elif _is_tuple(hint):
        shown["show_default"] = ",".join(default) if default else False
        kind, default = (str, ",".join(default)) if about["listed"] else (list[str] | None, None)
    if default is MISSING:
        default, shown["show_default"] = (inspect.Parameter.empty if optional is MISSING else optional), False
    annotation = Annotated[kind, typer.Option(*names, **shown)]  # type: ignore[valid-type]
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _from_flag(item: Field[Any], hint: Any, value: Any) -> Any:
    if _is_tuple(hint):
        return listed_names(value) if _about(item)["listed"] else tuple(value or _default(item))
    return {} if value is None and _is_object(hint) else value


def _json_object(text: Any) -> dict[str, Any]:
    if isinstance(text, dict):
        return text
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f'{text[:100]!r} is not JSON that can be sent ({error}): give an object, as {{"top_p": 0.9}}'
        ) from error
    if not isinstance(value, dict):
        raise UsageError(f'{text[:100]!r} is no JSON object: give one, as {{"top_p": 0.9}}')
    return value


def _is_tuple(hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is tuple


def _is_object(hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is dict


def _as_json(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value


def _from_json(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str) and _is_tuple(hint):  # one value in a run of an earlier version
        return (value,)
    if isinstance(value, str) and hint == Path | str:
        return place(value)
    if isinstance(value, str) and (hint is Path or Path in get_args(hint)):
        return Path(value)
    return value
