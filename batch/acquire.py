"""The run to work on: found or begun, locked, with the prompt that it is made under."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from backends.errors import UserError
from batch.config import GenerateOptions, text_sha256
from batch.jsonl import drop_torn_line, write_whole
from batch.run_files import UNSETTLED, RunFiles, begin_run, folder_locked, is_complete, latest_run, read_run
from batch.settings import RunSettings
from graph.checkpoints import ThreadIds


@dataclass(frozen=True)
class Acquired:
    """A run that this process holds alone."""

    files: RunFiles
    settings: RunSettings
    prompt: str
    """What the model is told, as `run.json` keeps it."""
    threads: ThreadIds
    changed: bool = False
    """Whether it goes on under other settings: what was made under the earlier ones may be of other questions."""


@contextmanager
def acquired_run(
    options: GenerateOptions, settings: RunSettings, prompt: str, run: RunFiles | None = None
) -> Iterator[Acquired]:
    """The given run, else the last one over the same questions and model if it still has something to do, else a new
    one. Raises UserError when that run was started with other settings.
    """
    with ExitStack() as stack:
        with folder_locked(options.output):
            found = read_run(run.run) if run else None if options.fresh else latest_run(options.output, settings)
            if found:
                files, content = found
                settings, prompt = _under_stored_prompt(options, settings, prompt, content, resumed=run is not None)
                changed = settings.difference(content["settings"])
                lock = stack.enter_context(ExitStack())
                lock.enter_context(files.locked())
                for path in (files.trajectories, files.rejected, files.failed):
                    drop_torn_line(path)
                if changed and not run and not options.allow_changed_settings and is_complete(files):
                    lock.close()
                    found = None
            if found is None:
                files = begin_run(options.output, settings, options.stored(), prompt)
                stack.enter_context(files.locked())
                acquired = Acquired(files, settings, prompt, ThreadIds(files.run_id, settings.made_under))
            else:
                if changed and not options.allow_changed_settings:
                    raise UserError(
                        f"{files.run} was started with other settings ({'; '.join(changed)}): set them back, start "
                        "another run with --fresh, or continue all the same with --allow-changed-settings"
                    )
                made_under = settings.made_under if changed else content.get("made_under")
                _update(files, content, settings, options, prompt, made_under, changed=bool(changed))
                threads = ThreadIds(files.run_id, made_under)
                acquired = Acquired(files, settings, prompt, threads, bool(changed) or UNSETTLED in content)
        yield acquired


def _under_stored_prompt(
    options: GenerateOptions, settings: RunSettings, prompt: str, content: dict[str, Any], *, resumed: bool
) -> tuple[RunSettings, str]:
    """A run that is resumed keeps the text that it was started with: `resume` whatever the file says now, `generate`
    where no file is given and the built-in text has another wording in this version.
    """
    theirs, stored = content["settings"], content.get("prompt")
    alike = all(theirs.get(name) == getattr(settings, name) for name in ("max_tool_calls",)) and tuple(
        content["options"].get("tools") or options.tools
    ) == tuple(options.tools)
    built_in = not options.system_prompt_file and not content["options"].get("system_prompt_file") and alike
    if not (resumed or built_in) or not isinstance(stored, str):
        return settings, prompt
    if text_sha256(stored) != theirs.get("prompt_sha256"):
        raise UserError(
            "the run's stored prompt is not the one that it was started with: start another run with --fresh"
        )
    return replace(settings, prompt_sha256=text_sha256(stored)), stored


def _update(
    files: RunFiles, content: dict[str, Any], settings: RunSettings, options: GenerateOptions, prompt: str,
    made_under: str | None, *, changed: bool,
) -> None:  # fmt: skip
    """Write to `run.json` under what the run goes on."""
    earlier = [*content.get("earlier_settings", []), *([content["settings"]] if changed else [])]
    update: dict[str, Any] = {
        "settings": asdict(settings),
        "options": options.stored(),
        "earlier_settings": earlier,
        "prompt": prompt,
    }
    if made_under is not None:
        update["made_under"] = made_under
    if changed:
        update[UNSETTLED] = True  # until the records of questions that are no longer asked are set aside
    before = content["settings"].get("prompt_sha256")
    if before != settings.prompt_sha256:
        update["earlier_prompts"] = {**content.get("earlier_prompts", {}), before: content.get("prompt")}
    write_whole(files.run, [json.dumps({**content, **update}, ensure_ascii=False, indent=1)])
