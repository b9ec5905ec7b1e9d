"""What each part of a five-call trajectory costs, alone: CPU milliseconds a trajectory, so many in flight.

python -m benchmarks.parts MODEL_URL TOOLS_URL [--trajectories 300] [--concurrency 64]     prints one JSON object
"""

import argparse
import asyncio
import gc
import json
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage

from backends.config import ModelConfig, ToolsConfig
from backends.services import open_services
from batch.append import LineWriter
from batch.jsonl import encoded
from batch.process import run_to_end
from batch.saver import open_saver
from graph.build import build_graph, recursion_limit
from graph.limits import Limits
from graph.queued_writes import QueuedWrites
from graph.state import State
from nodes.prompts import prompt_messages, system_prompt
from quality.verdict import judge
from serializers.evidence import failed
from serializers.record import QuestionRow, build_record
from serializers.tags import STOP_STRINGS

LIMITS = Limits()


class Recorded:
    """A model and tools that answer at once, from a trajectory that the load servers gave."""

    max_model_len: int | None = None

    def __init__(self, state: State, result: Any) -> None:
        self.replies = [message for message in state["messages"] if isinstance(message, AIMessage)]
        self.result = result

    async def ask(
        self, messages: list[dict[str, str]], max_tokens: int, seed: int | None, *, stops: bool = True
    ) -> AIMessage:
        turn = sum(message["role"] == "assistant" for message in messages)
        said = self.replies[turn]
        return AIMessage(said.text, response_metadata=dict(said.response_metadata), usage_metadata=said.usage_metadata)

    async def continue_reply(
        self, messages: list[dict[str, str]], begun: str, max_tokens: int, seed: int | None
    ) -> AIMessage | None:
        return None

    async def count_tokens(self, messages: list[dict[str, str]]) -> int | None:
        return None

    async def call(self, name: str, query: str, parameters: Mapping[str, Any]) -> tuple[Any, bool]:
        await asyncio.sleep(0)
        return self.result, False


async def cost(one: Callable[[], Awaitable[Any]], count: int, concurrency: int) -> float:
    """CPU milliseconds of one, over `count` of them."""

    async def work(left: "list[int]") -> None:
        while left:
            left.pop()
            await one()

    async def all_of(number: int) -> None:
        left = list(range(number))
        await asyncio.gather(*(work(left) for _ in range(concurrency)))

    await all_of(concurrency)
    gc.collect()
    before = time.process_time()
    await all_of(count)
    return (time.process_time() - before) / count * 1000


async def parts(
    model_url: str, tools_url: str, count: int, concurrency: int, database: str | None = None
) -> dict[str, float]:
    """Milliseconds by part."""
    address = ModelConfig((model_url,))
    tools = ToolsConfig(tools_url, tools=("pubmed_search",))
    system, question = system_prompt(LIMITS, ("pubmed_search",)), "Does the treatment help?"
    config = {"recursion_limit": recursion_limit(LIMITS)}
    async with open_services(address, tools, stop=STOP_STRINGS, concurrency=concurrency, failed=failed) as services:
        chat, call = services.chat, services.tools.call
        graph: Any = build_graph(chat, call, limits=LIMITS, system=system)
        state: State = await graph.ainvoke({"question": question}, config)
        result, _ = await call("pubmed_search", "trial outcome", {"limit": 5})
        turns = [at for at, message in enumerate(state["messages"]) if isinstance(message, AIMessage)]
        prompts = [prompt_messages(system, question, state["messages"][:at]) for at in turns]
        calls = [message for message in state["messages"] if isinstance(message, ToolMessage)]

        async def asked() -> None:
            for prompt in prompts:
                await chat.ask(prompt, LIMITS.max_tokens)

        async def called() -> None:
            for at in range(len(calls)):
                await call("pubmed_search", f"trial outcome {at}", {"limit": 5})

        model_client = await cost(asked, count, concurrency)
        mcp_client = await cost(called, count, concurrency)
    recorded = Recorded(state, result)
    bare: Any = build_graph(recorded, recorded.call, limits=LIMITS, system=system)
    looped = await cost(lambda: bare.ainvoke({"question": question}, config), count, concurrency)

    async def kept_in(saver: Any) -> float:
        kept: Any = build_graph(recorded, recorded.call, limits=LIMITS, system=system, checkpointer=saver)

        async def checkpointed() -> None:
            thread = str(uuid.uuid4())
            place = {**config, "configurable": {"thread_id": thread}}
            await kept.ainvoke({"question": question}, place, durability="async")
            if isinstance(saver, QueuedWrites):
                await saver.flush(thread)
            await saver.adelete_thread(thread)

        return await cost(checkpointed, count, concurrency) - looped

    in_postgres = {}
    if database:
        async with open_saver(database, Path()) as saver:
            in_postgres["checkpoints in PostgreSQL"] = await kept_in(saver)
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(database, serde=saver.serde) as stock:
            in_postgres["by LangGraph's own saver"] = await kept_in(stock)
    with tempfile.TemporaryDirectory() as folder:
        async with open_saver(None, Path(folder) / "checkpoints.sqlite") as saver:
            with_checkpoints = await kept_in(saver)

        row = QuestionRow(question=question, topic="", question_type="", expected_search_terms=[])
        about = {
            "generation_time": datetime.now().isoformat(),
            "model": "Qwen3-8B",
            "source_file": "q.jsonl",
            "attempts": 1,
        }

        lines = LineWriter(Path(folder) / "records.jsonl")

        async def written() -> None:
            record = judge(build_record("qwen3_traj_00001", row, state, about))
            await lines.append(encoded(record))

        writing = await cost(written, count, concurrency)
    return {
        "graph": looped, "model client": model_client, "MCP client": mcp_client,
        "checkpoints": with_checkpoints, "writing": writing, **in_postgres,
    }  # fmt: skip


def main() -> None:
    """Print the parts as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model_url")
    parser.add_argument("tools_url")
    parser.add_argument("--trajectories", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--postgres", help="a database, for what checkpoints cost there; PGPASSWORD has its password")
    asked = parser.parse_args()
    found = run_to_end(parts(asked.model_url, asked.tools_url, asked.trajectories, asked.concurrency, asked.postgres))
    print(json.dumps({name: round(milliseconds, 2) for name, milliseconds in found.items()}))


if __name__ == "__main__":
    main()
