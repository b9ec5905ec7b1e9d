"""Lines of a run's tokens as they are appended, and the rows that became of them."""

import math
from pathlib import Path
from typing import Any

import pyarrow.parquet

from backends.reply_tokens import packed


def rows_in(folder: Path) -> list[dict[str, Any]]:
    parts = sorted(folder.glob("*_tokens_part*.parquet"))
    return [row for part in parts for row in pyarrow.parquet.read_table(part).to_pylist()]


def line(number: int, time: str = "now") -> dict[str, Any]:
    tokens = {"prompt_ids": packed([1], "i"), "ids": packed([2, 3], "i"), "logprobs": packed([-0.5, math.nan], "f")}
    return {"sample_id": f"a_traj_{number:05d}", "generation_time": time, "replies": [{"turn": 1, **tokens}]}
