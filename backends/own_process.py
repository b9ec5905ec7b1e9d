"""Another process of ours: the same code as this one's, whatever lies in the folder where it runs."""

import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parents[1])


def own_command(*words: str) -> list[str]:
    """The command that runs `trajgraph` with these words."""
    return [sys.executable, "-P", "-m", "cli", *words]


def own_environment(**more: str | None) -> dict[str, str]:
    """This process's environment for it, with what is given and not None."""
    path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **{name: value for name, value in more.items() if value is not None}}
