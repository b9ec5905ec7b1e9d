"""Whose turn it is to compute: a few at a time, those on their way to the model first; who waits gives way."""

import asyncio
import contextlib

import pytest

from backends.model_first import ModelFirst, Waiting


async def test_only_a_few_compute_at_a_time_and_in_the_order_in_which_they_came() -> None:
    turn, computing, seen, order = ModelFirst(), set[int](), list[int](), list[int]()

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
    turn, answered, waiting = ModelFirst(), asyncio.Event(), 0

    async def ask() -> None:
        nonlocal waiting
        async with turn, turn.away():
            waiting += 1
            if waiting == 200:
                answered.set()
            await answered.wait()

    await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(200))), 10)


async def test_a_graph_on_its_way_to_the_model_is_before_one_whose_reply_has_to_be_read() -> None:
    turn, answered, order = ModelFirst(), asyncio.Event(), list[str]()

    async def compute(name: str, waiting: Waiting) -> None:
        async with turn:
            async with waiting():
                await answered.wait()
            order.append(name)
            await asyncio.sleep(0.01)

    replies = [asyncio.create_task(compute("reply", turn.at_model)) for _ in range(40)]
    tools = [asyncio.create_task(compute("tool", turn.away)) for _ in range(40)]
    await asyncio.sleep(0.05)
    answered.set()
    await asyncio.gather(*replies, *tools)
    first_tool = order.index("tool")
    assert first_tool < 20, "those that came first took the free turns"
    assert order[first_tool : first_tool + 40] == ["tool"] * 40


async def test_what_is_put_off_comes_when_no_graph_has_computed_for_a_moment() -> None:
    turn, order, ended = ModelFirst(put_off=20, lull=0.3), list[str](), asyncio.Event()

    async def compute() -> None:
        async with turn:
            order.append("graph")
            async with turn.at_model():
                await ended.wait()

    async def write_up() -> None:
        async with turn.afterwards(False):
            order.append("record")

    graphs = [asyncio.create_task(compute()) for _ in range(10)]
    records = [asyncio.create_task(write_up()) for _ in range(10)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert order == ["graph"] * 10, "nobody computes, but not for long"
    await asyncio.wait_for(asyncio.gather(*records), 10)
    assert order == ["graph"] * 10 + ["record"] * 10
    ended.set()
    await asyncio.gather(*graphs)


async def test_what_is_not_put_off_comes_like_a_graph() -> None:
    turn, written, ended = ModelFirst(put_off=20, lull=60), asyncio.Event(), asyncio.Event()

    async def compute() -> None:
        async with turn, turn.at_model():
            await ended.wait()

    async def write_up() -> None:
        async with turn.afterwards(True):
            written.set()

    graph, record = asyncio.create_task(compute()), asyncio.create_task(write_up())
    await asyncio.wait_for(written.wait(), 10)
    ended.set()
    await asyncio.gather(graph, record)


async def test_nothing_put_off_comes_while_a_graph_waits_for_the_disk() -> None:
    turn, stored, ended, written = ModelFirst(put_off=1), asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def compute() -> None:
        async with turn:
            async with turn.at_disk():
                await stored.wait()
            async with turn.at_model():
                await ended.wait()

    async def write_up() -> None:
        async with turn.afterwards(False):
            written.set()

    graph = asyncio.create_task(compute())
    await asyncio.sleep(0)
    record = asyncio.create_task(write_up())
    await asyncio.sleep(0.1)
    assert not written.is_set()
    stored.set()
    await asyncio.wait_for(written.wait(), 10)
    ended.set()
    await asyncio.gather(graph, record)


async def test_only_so_many_are_put_off_and_the_oldest_comes_first() -> None:
    turn, order = ModelFirst(put_off=2), list[int]()

    async def compute() -> None:
        async with turn:
            while len(order) < 3:
                async with turn.away():
                    await asyncio.sleep(0)

    async def write_up(number: int) -> None:
        async with turn.afterwards(False):
            order.append(number)

    async with turn:  # somebody computes until three are written
        busy = asyncio.create_task(compute())
        await asyncio.sleep(0)
        records = [asyncio.create_task(write_up(number)) for number in range(5)]
        await asyncio.wait_for(busy, 10)
        assert order == [0, 1, 2]
    await asyncio.gather(*records)
    assert order == [0, 1, 2, 3, 4]


async def test_a_failure_or_an_end_while_away_leaves_the_turn_free() -> None:
    turn = ModelFirst()

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


async def test_who_ends_while_waiting_for_a_turn_takes_none_with_it() -> None:
    turn, answered, computing = ModelFirst(), asyncio.Event(), 0

    async def come() -> None:
        async with turn:
            pass

    async def come_back() -> None:
        async with turn, turn.away():
            await answered.wait()

    async def compute() -> None:
        nonlocal computing
        async with turn:
            computing += 1
            await asyncio.Event().wait()

    away = [asyncio.create_task(come_back()) for _ in range(50)]
    await asyncio.sleep(0.01)
    holding = [asyncio.create_task(compute()) for _ in range(50)]
    await asyncio.sleep(0.01)
    at_once = computing
    waiting = [asyncio.create_task(come()) for _ in range(50)]
    answered.set()
    await asyncio.sleep(0.01)
    for task in (*away, *waiting, *holding):
        task.cancel()
    await asyncio.gather(*away, *waiting, *holding, return_exceptions=True)
    computing = 0
    again = [asyncio.create_task(compute()) for _ in range(50)]
    await asyncio.sleep(0.01)
    assert computing == at_once
    for task in again:
        task.cancel()
    await asyncio.gather(*again, return_exceptions=True)


async def test_one_that_computes_on_after_its_wait_was_cancelled_lets_no_others_in() -> None:
    turn, answered, ended, computing = ModelFirst(), asyncio.Event(), asyncio.Event(), 0

    async def compute_on() -> None:
        async with turn:
            with contextlib.suppress(asyncio.CancelledError):
                async with turn.away():
                    await answered.wait()
            await ended.wait()

    async def compute() -> None:
        nonlocal computing
        async with turn:
            computing += 1
            await ended.wait()

    cancelled = asyncio.create_task(compute_on())
    await asyncio.sleep(0.01)
    tasks = [asyncio.create_task(compute()) for _ in range(50)]
    await asyncio.sleep(0.01)
    at_once = computing
    answered.set()
    await asyncio.sleep(0.01)
    cancelled.cancel()
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(compute()) for _ in range(50)]
    await asyncio.sleep(0.01)
    assert computing == at_once
    ended.set()
    await asyncio.wait_for(asyncio.gather(cancelled, *tasks), 10)
    assert computing == 100
