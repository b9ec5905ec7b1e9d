"""Whose turn it is to compute: a few at a time, those on their way to the model first; who waits gives way."""

import asyncio

import pytest

from backends.first_come import FirstCome


async def test_only_a_few_compute_at_a_time_and_in_the_order_in_which_they_came() -> None:
    turn, computing, seen, order = FirstCome(), set[int](), list[int](), list[int]()

    async def compute(number: int) -> None:
        async with turn:
            order.append(number)
            computing.add(number)
            for _ in range(5):
                seen.append(len(computing))
                await asyncio.sleep(0)
            computing.remove(number)

    await asyncio.gather(*(compute(number) for number in range(100)))
    assert order == list(range(100))
    assert 1 < max(seen) < 20


async def test_who_waits_for_a_server_gives_way_to_all_others() -> None:
    turn, answered, waiting = FirstCome(), asyncio.Event(), 0

    async def ask() -> None:
        nonlocal waiting
        async with turn, turn.away():
            waiting += 1
            if waiting == 200:
                answered.set()
            await answered.wait()

    await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(200))), 10)


async def test_a_graph_on_its_way_to_the_model_is_before_one_whose_reply_has_to_be_read() -> None:
    turn, answered, order = FirstCome(), asyncio.Event(), list[str]()

    async def read_the_reply() -> None:
        async with turn:
            async with turn.at_model():
                await answered.wait()
            order.append("reply")
            await asyncio.sleep(0.01)

    async def ask_the_model() -> None:
        async with turn:
            async with turn.away():
                await answered.wait()
            order.append("tool")
            await asyncio.sleep(0.01)

    replies = [asyncio.create_task(read_the_reply()) for _ in range(40)]
    tools = [asyncio.create_task(ask_the_model()) for _ in range(40)]
    await asyncio.sleep(0.05)
    answered.set()
    await asyncio.gather(*replies, *tools)
    first_tool = order.index("tool")
    assert first_tool < 20, "those that came first took the free turns"
    assert order[first_tool : first_tool + 40] == ["tool"] * 40


async def test_a_failure_or_an_end_while_away_leaves_the_turn_free() -> None:
    turn = FirstCome()

    async def fail() -> None:
        async with turn, turn.away():
            raise ConnectionError

    async def never() -> None:
        async with turn, turn.away():
            await asyncio.Event().wait()

    for _ in range(50):
        with pytest.raises(ConnectionError):
            await fail()
        ended = asyncio.create_task(never())
        await asyncio.sleep(0)
        ended.cancel()
        await asyncio.gather(ended, return_exceptions=True)
    async with asyncio.timeout(5), turn:
        pass
