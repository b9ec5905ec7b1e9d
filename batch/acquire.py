"""The run to work on: found or created, locked, with the prompt that it is made under."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from backends.errors import UsageError
from batch.config import RunConfig, Settings, differences, made_under, text_sha256
from batch.flags import to_dict
from batch.jsonl import atomic_write, truncate_partial_line
from batch.run_files import UNSORTED, RunFiles, ThreadIds, create_run, folder_locked, is_complete, latest_run, read_run


@dataclass(frozen=True)
class Acquired:
    """A run that this process holds alone."""

    files: RunFiles
    settings: Settings
    prompt: str
    """The system prompt, as `run.json` keeps it."""
    threads: ThreadIds
    changed: bool = False
    """Whether it goes on under other settings: what was made under the earlier ones may be of other questions."""


@contextmanager
def acquire_run(config: RunConfig, settings: Settings, prompt: str, run: RunFiles | None = None) -> Iterator[Acquired]:
    """The given run, else the last one over the same questions and model if it still has something to do, else a new
    one. Raises UsageError when that run was started with other settings.
    """
    with ExitStack() as stack:
        with folder_locked(config.output):
            found = read_run(run.run) if run else None if config.fresh else latest_run(config.output, settings)
            if found:
                files, content = found
                settings, prompt = _under_stored_prompt(config, settings, prompt, content, resumed=run is not None)
                changed = differences(content["settings"], settings)
                lock = stack.enter_context(ExitStack())
                lock.enter_context(files.locked())
                for path in files.outputs.values():
                    truncate_partial_line(path)
                if changed and not run and not config.allow_changed_settings and is_complete(files):
                    lock.close()
                    found = None
            if found is None:
                files = create_run(config, settings, prompt)
                stack.enter_context(files.locked())
                acquired = Acquired(files, settings, prompt, ThreadIds(files.run_id, made_under(settings)))
            else:
                if changed and not config.allow_changed_settings:
                    raise UsageError(
                        f"{files.run} was started with other settings ({'; '.join(changed)}): set them back, start "
                        "another run with --fresh, or resume all the same with --allow-changed-settings"
                    )
                under = made_under(settings) if changed else content.get("made_under")
                _update(files, content, settings, config, prompt, under, changed=bool(changed))
                threads = ThreadIds(files.run_id, under)
                acquired = Acquired(files, settings, prompt, threads, bool(changed) or UNSORTED in content)
        yield acquired


def _under_stored_prompt(
    config: RunConfig, settings: Settings, prompt: str, content: dict[str, Any], *, resumed: bool
) -> tuple[Settings, str]:
    """A run that is resumed keeps the text that it was started with: `resume` whatever the file says now, `generate`
    where no file is given and the built-in text has another wording in this version.
    """
    theirs, stored, options = content["settings"], content.get("prompt"), content["options"]
    alike = theirs.get("max_tool_calls") == settings["max_tool_calls"] and tuple(
        options.get("tools") or config.tools.tools
    ) == tuple(config.tools.tools)
    built_in = not config.system_prompt_file and not options.get("system_prompt_file") and alike
    if not (resumed or built_in) or not isinstance(stored, str):
        return settings, prompt
    if text_sha256(stored) != theirs.get("prompt_sha256"):
        raise UsageError(
            "the run's stored prompt is not the one that it was started with: start another run with --fresh"
        )
    return {**settings, "prompt_sha256": text_sha256(stored)}, stored


def _update(
    files: RunFiles, content: dict[str, Any], settings: Settings, config: RunConfig, prompt: str,
    under: str | None, *, changed: bool,
) -> None:  # fmt: skip
    """Write to `run.json` under what the run goes on."""
    earlier = [*content.get("earlier_settings", []), *([content["settings"]] if changed else [])]
    update: dict[str, Any] = {
        "settings": settings,
        "options": to_dict(config),
        "earlier_settings": earlier,
        "prompt": prompt,
    }
    if under is not None:
        update["made_under"] = under
    if changed:
        update[UNSORTED] = True  # until the records of questions that are no longer asked are set aside
    before = content["settings"].get("prompt_sha256")
    if before != settings["prompt_sha256"]:
        update["earlier_prompts"] = {**content.get("earlier_prompts", {}), before: content.get("prompt")}
    atomic_write(files.run, [json.dumps({**content, **update}, ensure_ascii=False, indent=1)])
