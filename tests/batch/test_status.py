"""`status` tells of every run of a folder: outcome, rate, what is left, and what is stuck."""

import os
import re
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from batch.run_files import RunFiles
from tests.support.runs import generate, trajgraph, two_turns
from tests.support.servers import ScriptedModel


def aged(checkpoints: Path, seconds: int) -> None:
    """Make every step of a run older: its time is in the id, in steps of 100 ns, highest bits first (UUID version 6)."""
    with closing(sqlite3.connect(checkpoints)) as stored:
        for table in ("checkpoints", "writes"):
            for (name,) in stored.execute(f"SELECT DISTINCT checkpoint_id FROM {table}").fetchall():
                number = uuid.UUID(name).int
                ticks = ((number >> 80) << 12 | (number >> 64) & 0xFFF) - seconds * 10**7
                older = (ticks >> 12) << 80 | 6 << 76 | (ticks & 0xFFF) << 64 | number & (1 << 64) - 1
                stored.execute(
                    f"UPDATE {table} SET checkpoint_id = ? WHERE checkpoint_id = ?", (str(uuid.UUID(int=older)), name)
                )
        stored.commit()


async def begun(folder: Path, model: ScriptedModel, tools_url: str, **settings: Any) -> RunFiles:
    """A run of which two questions are stuck at their second reply."""
    model.script = lambda messages: (
        JSONResponse({"error": {"message": "no"}}, 400)
        if len(messages) > 2 and re.search("Question [25] ", messages[1]["content"])
        else two_turns(messages)
    )
    return (await generate(folder, model, tools_url, **settings)).files


async def test_what_has_made_no_step_for_long_is_named(
    folder: Path, scripted_model: ScriptedModel, tools_url: str
) -> None:
    files = await begun(folder, scripted_model, tools_url)
    with files.locked():
        aged(files.checkpoints, 720)
        assert "no step for long" not in trajgraph("status", files.run).stdout, "what has failed is not stuck"
        aged(files.checkpoints, -720)
    files.failed.unlink()  # as while they are in work
    quiet = trajgraph("status", files.run).stdout
    assert "4 accepted, 0 rejected, 0 failed, 2 pending of 6; no process is working on it" in quiet
    with files.locked():
        assert "no step for long" not in trajgraph("status", files.run).stdout
        aged(files.checkpoints, 720)
        told = trajgraph("status", files.run).stdout
    assert re.search(
        r"no step for long: qwen3_traj_0000[25], last step 1[23] min ago; qwen3_traj_0000[25], last step 1[23] min ago\n",
        told,
    )
    assert f"process {os.getpid()} is at work" in told


async def test_each_run_of_a_folder_has_its_line(folder: Path, scripted_model: ScriptedModel, tools_url: str) -> None:
    for number in range(3):
        await begun(folder, scripted_model, tools_url, instance_id=f"gpu{number}", limit=number + 1)
    lines = trajgraph("status", folder).stdout.splitlines()
    told = re.findall(r"_(gpu\d): (\d) accepted", "\n".join(lines))
    assert told == [("gpu0", "1"), ("gpu1", "1"), ("gpu2", "2")]
