"""The earlier script's name and flags: `trajgraph generate`, from any folder."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PYTHON = ROOT / ".venv" / "bin" / "python"

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    try:
        from cli import main
    except ImportError:
        if not PYTHON.exists() or os.environ.get("TRAJGRAPH_VENV"):
            sys.exit(f"trajgraph: not installed for {sys.executable}: run make install in {ROOT}")
        os.environ["TRAJGRAPH_VENV"] = "1"  # once
        os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])  # noqa: S606
    main(["generate", *sys.argv[1:]])
