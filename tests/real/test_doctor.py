"""What doctor says of llama.cpp is what llama.cpp does."""

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.real.parts import llama
from tests.support.runs import trajgraph
from tests.support.servers import offline_tools


def asked(url: str, **body: Any) -> dict[str, Any]:
    """llama.cpp's own answer."""
    content = json.dumps({"max_tokens": 60, "messages": [{"role": "user", "content": "Write one sentence."}], **body})
    request = Request(f"{url}/chat/completions", content.encode(), headers={"content-type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return dict(json.load(answer))


@pytest.mark.parametrize(("slots", "context"), [(1, 8192), (4, 16_384), (1, 2048)])
def test_doctor_is_right_about_llama_cpp(model_folder: Path, slots: int, context: int) -> None:
    with llama(slots, context) as url, offline_tools() as tools:
        done = trajgraph("doctor", "--local-model-url", url, "--mcp-url", tools, "--model-name", "Qwen3-8B",
                         "--max-tokens", 256, "--concurrency", 4, "--json")  # fmt: skip
        told = {row["what"]: (row["state"], row["said"]) for row in json.loads(done.stdout)["findings"]}
        said = asked(url, stop=["e"])["choices"][0]
        with urlopen(url.replace("/v1", "/props")) as answer:
            properties = json.load(answer)
    message = said["message"]
    field = "reasoning_content" if message.get("reasoning_content") else "content"
    assert f"`{field}`" in told["thought"][1] or field == "content"
    assert not (message.get("reasoning_content") or message["content"]).endswith("e")
    assert "cut from its end" in told["stop strings"][1]
    per_slot = properties["default_generation_settings"]["n_ctx"]
    assert told["context"][1].startswith(f"{per_slot:,} tokens")
    assert told["context"][0] == "warning"  # outputs are shortened, and a run works
    assert told["slots"] == (("ok", "4, enough for --concurrency 4") if slots == 4 else ("warning", told["slots"][1]))
    assert done.returncode == 0


def test_doctor_says_when_no_prompt_fits_in_llama_cpp(model_folder: Path) -> None:
    with llama(4, 2048) as url, offline_tools() as tools:
        done = trajgraph("doctor", "--local-model-url", url, "--mcp-url", tools, "--model-name", "Qwen3-8B")
    assert done.returncode == 1
    assert "missing  completion" in done.stdout
    assert "512 tokens" in done.stdout
