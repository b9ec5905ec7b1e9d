"""The page to look at: one file, no network, nothing of a trajectory runs in it, and a citation leads to its snippet."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.runs import trajgraph
from tests.support.trajectories import record, replaced, sound
from training.report import _bins

HOSTILE = '</script><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'">'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over three trajectories, one of which would run a script if it could."""
    folder = tmp_path_factory.mktemp("page")
    rows = [record(1, sound(1)), replaced(2, 3, f"<think>{HOSTILE}</think>"), replaced(3, 6, "<think></think>")]
    rows[1]["question"] = HOSTILE
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = trajgraph("report", folder / "rows.jsonl", "--output", folder / "report.html")
    assert done.returncode == 0, done.stderr
    return folder / "report.html"


def test_a_report_is_one_page_that_asks_no_network_and_holds_no_markup_of_a_trajectory(page: Path) -> None:
    content = page.read_text(encoding="utf-8")
    assert "<img" not in content
    assert content.count("</script>") == content.count("<script")
    assert not re.search(r'(?:src|href)\s*=\s*"http', content)
    assert "default-src 'none'" in content


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        chromium = player.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


def test_in_a_browser_a_citation_leads_to_its_snippet_the_list_filters_and_no_script_runs(
    browser: Any, page: Path
) -> None:
    from playwright.sync_api import expect

    view, said = browser.new_page(), []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.goto(page.as_uri())
    view.wait_for_selector("body[data-ready]")
    assert view.locator(".item").count() == 3
    view.locator(".item").nth(0).click()
    view.wait_for_selector(".piece.answer")
    assert view.locator(".piece").count() == 8
    view.locator("a.cite").nth(1).click()
    assert view.locator(".snippet.here").inner_text().startswith("3001")
    view.locator("#search").fill("owned")
    assert view.locator(".item").count() == 1
    view.locator(".item").nth(0).click()
    expect(view.locator("#detail h1")).to_contain_text("onerror")
    assert HOSTILE in view.locator("#detail").inner_text()
    assert view.title() != "owned"
    view.locator("#search").fill("")
    view.locator("#gate").select_option("empty_think")
    assert view.locator(".item").count() == 1
    view.locator("#gate").select_option("")
    view.locator("header h1").click()
    view.keyboard.press("j")
    view.wait_for_selector(".item[aria-current=true]", timeout=5000)
    assert view.locator(".piece.wrong").count() == 0
    view.locator("#search").fill("hazard 2001")
    assert view.locator(".item").count() == 0
    view.keyboard.press("Enter")
    expect(view.locator(".item")).to_have_count(1)
    assert "in their texts too" in view.locator("#count").inner_text()
    view.locator("#search").fill("")
    view.locator("#gate").select_option("empty_think")
    view.locator(".item").click()
    view.wait_for_selector(".piece.think.wrong")
    assert view.locator(".piece.wrong h3 .tag").all_inner_texts() == ["empty_think"]
    assert said == []


def test_a_citation_leads_to_the_head_of_a_long_snippet(browser: Any, tmp_path: Path) -> None:
    segments = sound(1)
    segments[2] = segments[2].replace("The hazard", "Background and methods at length. " * 300 + "The hazard")
    (tmp_path / "rows.jsonl").write_text(json.dumps(record(1, segments)) + "\n")
    assert trajgraph("report", tmp_path / "rows.jsonl", "--output", tmp_path / "page.html").returncode == 0
    view = browser.new_page()
    view.goto((tmp_path / "page.html").as_uri())
    view.locator(".item").click()
    view.locator("a.cite").nth(0).click()
    snippet = view.locator(".snippet.here").bounding_box()
    assert snippet["height"] > 2000, "what was cut is shown whole"
    assert 0 <= snippet["y"] < view.viewport_size["height"] - 100


def test_the_numbers_of_a_report_leave_nothing_out(tmp_path: Path) -> None:
    rows = [record(n, [*sound(n), "x " * 1800 * n]) for n in range(1, 41)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert trajgraph("report", tmp_path / "rows.jsonl", "--output", tmp_path / "page.html").returncode == 0
    told = re.search(r'id="index">(.*?)</script>', (tmp_path / "page.html").read_text(encoding="utf-8"), re.DOTALL)
    assert told
    charts = dict(json.loads(told[1])["charts"])
    assert sum(values[0] for _, values in charts["thousand tokens"]) == 40
    assert len(charts["thousand tokens"]) <= 15
    funnel = dict(charts["funnel"])
    assert (funnel["trajectories"], funnel["accepted"]) == ([40], [0])


def test_the_same_file_twice_stands_side_by_side(page: Path) -> None:
    rows = page.with_name("rows.jsonl")
    done = trajgraph("report", rows, rows, "--output", page.with_name("two.html"))
    assert done.stdout.strip().endswith("6 trajectories")
    told = re.search(r'id="index">(.*?)</script>', page.with_name("two.html").read_text(encoding="utf-8"), re.DOTALL)
    assert told
    index = json.loads(told[1])
    assert [row["f"] for row in index["rows"]] == [0, 0, 0, 1, 1, 1]


@given(st.lists(st.lists(st.integers(0, 400), max_size=30).map(Counter), min_size=1, max_size=3))
def test_the_steps_of_a_chart_hold_everything_once_and_zero_is_zero(runs: list[Counter[int]]) -> None:
    found = _bins(runs)
    assert [sum(column) for column in zip(*(values for _, values in found), strict=True)] in (
        [run.total() for run in runs],
        [],
    )
    for label, values in found:
        assert (label == "0") == (values == [run[0] for run in runs] and label == "0")
        assert not label.startswith("0 to")
    assert len(found) <= 16


def test_in_a_browser_the_list_and_the_reader_are_what_one_sees_and_the_overview_unfolds(
    browser: Any, tmp_path: Path
) -> None:
    segments = sound(1)
    segments[2] = "<tool_output>\nError: None\n</tool_output>"
    rows = [record(1, segments), *(record(n, sound(n)) for n in range(2, 9))]
    for name, some in (("one", rows), ("two", rows[:5])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    assert (
        trajgraph(
            "report", tmp_path / "one.jsonl", tmp_path / "two.jsonl", "--output", tmp_path / "page.html"
        ).returncode
        == 0
    )
    for width, height in ((1440, 900), (1024, 700), (390, 844)):
        view = browser.new_page(viewport={"width": width, "height": height})
        view.goto((tmp_path / "page.html").as_uri())
        first, reader = view.locator(".item").first.bounding_box(), view.locator("#detail").bounding_box()
        assert first["y"] + first["height"] < height / 2, "the list begins in the upper half"
        assert reader["y"] < height
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert "accepted" in view.locator("#lines").inner_text()
        assert not view.locator("#charts .bar").first.is_visible()
        view.locator("#lines").click()
        view.locator("#charts .bar").first.wait_for(state="visible")
        funnel = view.locator("#charts > div").first.inner_text().split()
        assert "-3" in funnel, "five trajectories beside eight"
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.locator("#charts i.zero").evaluate_all("all => all.every(e => e.offsetWidth === 0)")
        view.locator("#lines").click()
        view.locator(".item").first.click()
        assert view.locator(".error").first.evaluate(
            "e => getComputedStyle(e.querySelector('.body')).color"
        ) == view.locator(".item .tag").first.evaluate("e => getComputedStyle(e).color")
        view.close()


def test_a_page_that_cannot_be_written_whole_leaves_the_one_before(page: Path, tmp_path: Path) -> None:
    old = tmp_path / "page.html"
    old.write_text("old")
    (tmp_path / "broken.jsonl").write_text(
        json.dumps(record(1, sound(1))) + "\n" + json.dumps(record(1, sound(1))) + "\n"
    )
    assert trajgraph("report", tmp_path / "broken.jsonl", "--output", old).returncode == 2
    assert old.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "page.html"]
    assert trajgraph("report", page.with_name("rows.jsonl"), "--output", tmp_path / "no" / "page.html").returncode == 2
