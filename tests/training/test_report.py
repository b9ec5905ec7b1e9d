"""The page to look at: one file, no network, nothing of a trajectory runs in it, and a citation leads to its snippet."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import trajgraph
from tests.support.trajectories import record, replaced, sound

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
    snippet, box = (
        view.locator(".snippet.here").bounding_box(),
        view.locator(".tool_output .body").nth(0).bounding_box(),
    )
    assert snippet["height"] > box["height"]
    assert box["y"] <= snippet["y"] < box["y"] + box["height"] / 2
    assert 0 <= snippet["y"] < view.viewport_size["height"] - 100


def test_the_numbers_of_a_report_leave_nothing_out(tmp_path: Path) -> None:
    rows = [record(n, [*sound(n), "x " * 1800 * n]) for n in range(1, 41)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert trajgraph("report", tmp_path / "rows.jsonl", "--output", tmp_path / "page.html").returncode == 0
    told = re.search(r'id="index">(.*?)</script>', (tmp_path / "page.html").read_text(encoding="utf-8"), re.DOTALL)
    assert told
    charts = dict(json.loads(told[1])["runs"][0]["charts"])
    assert sum(value for _, value in charts["thousand tokens"]) == 40
    assert len(charts["thousand tokens"]) <= 14
    funnel = dict(charts["funnel"])
    assert (funnel["trajectories"], funnel["accepted"]) == (40, 0)


def test_the_same_file_twice_stands_side_by_side(page: Path) -> None:
    rows = page.with_name("rows.jsonl")
    done = trajgraph("report", rows, rows, "--output", page.with_name("two.html"))
    assert done.stdout.strip().endswith("6 trajectories")
    told = re.search(r'id="index">(.*?)</script>', page.with_name("two.html").read_text(encoding="utf-8"), re.DOTALL)
    assert told
    index = json.loads(told[1])
    assert [row["f"] for row in index["rows"]] == [0, 0, 0, 1, 1, 1]
