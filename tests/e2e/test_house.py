"""The promises of the papers: every command in the README runs, both languages say the same, our names are our own."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import packages_distributions
from pathlib import Path
from urllib.request import urlopen

import pytest

from servers.tool_server.corpus_format import BUNDLED
from tests.support import flags_table
from tests.support.runs import ROOT, write_questions
from tests.support.servers import free_port

ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
EARLY = ("trajgraph corpus build", "trajgraph serve-")
"""What the other commands need: they come first."""
OURS = ("backends", "batch", "cli", "graph", "nodes", "quality", "serializers", "servers", "studio", "training")


def commands(readme: str) -> list[str]:
    """Every line of every bash block."""
    blocks = re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_both_readmes_show_the_same_commands_and_files() -> None:
    assert commands(ENGLISH) == commands(CHINESE)
    assert re.findall(r"^\| `([^`]+)`", ENGLISH, re.MULTILINE) == re.findall(r"^\| `([^`]+)`", CHINESE, re.MULTILINE)
    assert set(re.findall(r"`(--[\w-]+)", ENGLISH)) == set(re.findall(r"`(--[\w-]+)", CHINESE))


def test_every_make_target_of_the_readme_exists() -> None:
    targets = {line.split()[1] for line in commands(ENGLISH) if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "test", "long", "check", "real"} == targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.long
def test_every_trajgraph_command_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    write_questions(tmp_path / "questions.jsonl", ["Does semaglutide help in obesity?"])
    (tmp_path / "papers.jsonl").write_bytes(BUNDLED.read_bytes())
    model, tools, corpus, studio = (str(free_port()) for _ in range(4))
    environment = {**os.environ, "MCP_TRANSPORT_PORT": tools, "COLUMNS": "160", "PYTHONPATH": str(ROOT),
                   "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}  # fmt: skip
    lines = [line for line in commands(ENGLISH) if line.startswith("trajgraph ")]
    lasting = ("trajgraph serve-", "trajgraph studio")
    running: list[subprocess.Popen[bytes]] = []
    try:
        for line in sorted(lines, key=lambda line: (not line.startswith(EARLY), not line.startswith(EARLY[0]))):
            words = shlex.split(line.replace("8000", model).replace("8003", tools).replace("8004", corpus))[1:]
            if words[0] == "studio":
                words += ["--port", studio]
            command = [sys.executable, "-m", "cli", *words]
            if not line.startswith(lasting):
                done = subprocess.run(
                    command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, (line, done.stderr)
                assert done.stdout
                continue
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
            )
            running.append(process)
            health = {"serve-model": "/health", "serve-tools": "/mcp/health", "studio": "/ok"}[words[0]]
            wait_for(f"http://127.0.0.1:{words[words.index('--port') + 1]}{health}")
            if words[0] == "studio":
                process.send_signal(signal.SIGTERM)
                process.wait(30)
    finally:
        for process in running:
            process.terminate()
            process.wait(30)
    assert list((tmp_path / "pubmed_training_data").glob("*_incremental.jsonl"))


def wait_for(url: str) -> None:
    for _ in range(300):
        try:
            with urlopen(url):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"nothing answers at {url}")


def test_no_other_distribution_claims_our_names_and_no_folder_of_ours_shadows_a_dependency() -> None:
    claimed = packages_distributions()
    for name in OURS:
        assert set(claimed.get(name, [])) <= {"trajgraph"}, name
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "__pycache__"))}
    assert {name for name in folders & claimed.keys() if set(claimed[name]) - {"trajgraph"}} == set()


def test_the_licence_and_the_lock_files_are_there() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    for name in ("requirements.lock", "requirements-dev.lock"):
        locked = (ROOT / name).read_text(encoding="utf-8")
        assert "--hash=sha256:" in locked
        assert "://" not in locked


def test_the_tables_of_flags_are_those_of_the_settings() -> None:
    assert flags_table.in_file("README.md") == flags_table.table()
    translated = flags_table.meanings("README.zh-CN.md")
    assert translated.keys() == flags_table.flags().keys()
    assert flags_table.in_file("README.zh-CN.md") == flags_table.table(translated)
    assert not set(translated.values()) & {text for _, text in flags_table.flags().values()}, "each is in Chinese"
