"""The run to work on: found or created, locked, with the prompt that it is made under."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from backends.errors import UsageError
from batch.config import RunConfig, Settings, made_under
from batch.find_run import Found, as_found, find_run, rejected_for
from batch.flags import to_dict
from batch.jsonl import atomic_write, truncate_partial_line
from batch.run_files import UNSORTED, Ids, RunFiles, create_run, folder_locked, read_run, same_ids


@dataclass(frozen=True)
class Acquired:
    """A run that this process holds alone."""

    files: RunFiles
    settings: Settings
    prompt: str
    """The system prompt, as `run.json` keeps it."""
    ids: Ids
    changed: bool = False
    """Whether it goes on under other settings: what was made under the earlier ones may be of other questions."""
    redo: frozenset[str] = frozenset()
    """Rejected samples that are to be sampled anew."""
    is_new: bool = False
    others: Sequence[Found] = ()
    """Unfinished runs of the same questions and model that it leaves alone."""
    named_alike: Sequence[RunFiles] = ()
    """Other runs in the folder that give their samples the same ids."""


@contextmanager
def acquire_run(
    config: RunConfig, settings: Settings, prompt: str, asked: int, run: RunFiles | None = None
) -> Iterator[Acquired]:
    """The given run, else the one that the command is about (see `find_run`), else a new one. `asked` is how many
    questions the command asks. Raises UsageError when that run was made otherwise, or another process has it.
    """
    with ExitStack() as stack:
        with folder_locked(config.output):
            found, others = None, list[Found]()
            if run:
                found = as_found(config, settings, prompt, asked, *read_run(run.run), resumed=True)
            else:
                found, others = find_run(config, settings, prompt, asked)
            if found is None:
                files = create_run(config, settings, prompt)
                stack.enter_context(files.locked())
                content = read_run(files.run)[1]
                ids = Ids.of_run(files, content)
                named_alike = same_ids(files, content)
                acquired = Acquired(files, settings, prompt, ids, is_new=True, others=others, named_alike=named_alike)
            else:
                files, content, changed = found.files, found.content, found.changed
                stack.enter_context(files.locked())
                for path in files.outputs.values():
                    truncate_partial_line(path)
                if changed and not (config.allow_changed_settings or config.redo or found.known):
                    raise UsageError(
                        f"{files.run} was started with other settings ({'; '.join(changed)}): set them back, start "
                        "another run with --fresh, or resume all the same with --allow-changed-settings"
                    )
                under = made_under(found.settings) if changed else content.get("made_under")
                begun = content.get("redo") == {"what": config.redo, "set_aside": True}
                goes_on = begun and not changed and not found.complete
                redo = (
                    rejected_for(files, config.redo, config.samples.accept)
                    if config.redo and not goes_on
                    else set[str]()
                )
                if changed or redo:
                    files.stats.unlink(missing_ok=True)  # until they are counted anew, it is not complete
                _update(files, content, found, config, under, goes_on=goes_on)
                ids = Ids.of_run(files, {**content, "made_under": under})
                acquired = Acquired(
                    files, found.settings, found.prompt, ids, bool(changed) or UNSORTED in content, frozenset(redo),
                    others=others,
                )  # fmt: skip
        yield acquired


def _update(
    files: RunFiles, content: dict[str, Any], found: Found, config: RunConfig, under: str | None, *, goes_on: bool
) -> None:
    """Write to `run.json` under what the run goes on."""
    changed = bool(found.changed)
    earlier = [*content.get("earlier_settings", []), *([content["settings"]] if changed else [])]
    update: dict[str, Any] = {
        "settings": found.settings, "options": to_dict(config), "earlier_settings": earlier, "prompt": found.prompt,
        "redo": {"what": config.redo, "set_aside": goes_on} if config.redo else None,
    }  # fmt: skip
    if under is not None:
        update["made_under"] = under
    if changed:
        update[UNSORTED] = True  # until the records of questions that are no longer asked are set aside
    before = content["settings"].get("prompt_sha256")
    if before != found.settings["prompt_sha256"]:
        update["earlier_prompts"] = {**content.get("earlier_prompts", {}), before: content.get("prompt")}
    atomic_write(files.run, [json.dumps({**content, **update}, ensure_ascii=False, indent=1)])
