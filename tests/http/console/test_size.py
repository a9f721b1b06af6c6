"""Long runs and long lists: they open at once, and keep the document small."""

import os
import time
from collections.abc import Iterator
from functools import partial

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import Connection, text

from runstore.database.opening import write_to
from tests.http.console.conftest import AGENTS, CONFIG
from tests.http.console.tab import Tab, tab_of
from tests.kit.keys import url_of
from tests.kit.process_tree import descendants
from tests.kit.server import ServerProcess, serving
from tests.kit.waits import core_waits

NOTES = 100_000
RUNS = 100_000
OPEN_S = 1.0  # to open a run of NOTES events
PAINT_S = 0.1  # to the first paint
PAINT = "performance.getEntriesByName('first-contentful-paint')"
COPIES = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
INSERT INTO runs ({columns}) SELECT {values} FROM runs, numbers WHERE run_id = :run_id
"""
SCROLL_ON = """() => {
    const box = document.querySelector(".virtual");
    box.scrollTop = box.scrollHeight;
    return document.querySelector(".virtual-space").offsetHeight;
}"""
NEW_ID = "substr(run_id, 1, 14) || printf('7%03x-8000-%012x', n / 4096, n)"


def add_copies(connection: Connection, run_id: str) -> None:
    """Add RUNS rows to the run list."""
    names = [row[1] for row in connection.execute(text("PRAGMA table_info(runs)"))]
    values = [NEW_ID if name == "run_id" else name for name in names]
    copies = text(COPIES.format(columns=", ".join(names), values=", ".join(values)))
    connection.execute(copies, {"count": RUNS, "run_id": run_id})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str]]:
    """A server with a run of NOTES events, and with RUNS other runs."""
    folder = tmp_path_factory.mktemp("large")
    with serving(folder, CONFIG, AGENTS) as server:
        run_id = server.begin_silent()
        for start in range(0, NOTES, 1_000):
            events = [{"type": "custom.note", "data": {"text": f"note {start + n}"}} for n in range(1_000)]
            assert server.http.post(f"/runs/{run_id}/events", json={"events": events}).status_code == 201
        server.stop_run(run_id)
        copied = server.begin("quick", "one of many")
        server.ended(copied)
        write_to(url_of(folder), partial(add_copies, run_id=copied))
        yield server, run_id


@pytest.fixture
def tab(browser: Browser, large: tuple[ServerProcess, str]) -> Iterator[Tab]:
    with tab_of(browser, str(large[0].http.base_url)) as tab:
        tab.open("system")  # so that the browser has the files
        tab.shows("Workers")
        yield tab


def elements(tab: Tab) -> int:
    found: int = tab.page.evaluate("document.querySelectorAll('*').length")
    return found


@pytest.mark.slow
@pytest.mark.alone
def test_a_run_of_100_000_events_opens_within_a_second(tab: Tab, large: tuple[ServerProcess, str]) -> None:
    began = time.monotonic()
    tab.open(f"runs/{large[1]}")
    tab.find(".step.note").first.wait_for()
    took = time.monotonic() - began
    assert took < OPEN_S, f"{took:.2f} s"
    assert elements(tab) < 2_000
    asked = [each.url for each in tab.requests if "/events" in each.url]
    assert len(asked) <= 4, "not all of them are loaded"


@pytest.mark.slow
def test_any_place_of_100_000_events_is_shown_at_once(tab: Tab, large: tuple[ServerProcess, str]) -> None:
    tab.open(f"runs/{large[1]}?tab=events&from=77777")
    expect(tab.find(".detail")).to_contain_text("note 77773")
    assert elements(tab) < 2_000
    tab.open(f"runs/{large[1]}?at=50000&step=note-50000")
    expect(tab.find(".detail")).to_contain_text("note 49996")
    expect(tab.find(".run-head .status")).to_have_text("running")
    expect(tab.find(".time-slider .place")).to_contain_text("50,000")


@pytest.mark.slow
@pytest.mark.alone
def test_100_000_runs_scroll_with_few_rows_in_the_document(tab: Tab) -> None:
    tab.open()
    tab.shows("100,002 runs", ".totals")
    tab.until(f"({SCROLL_ON})() > 48 * 1000")
    assert elements(tab) < 2_000
    longest = tab.page.evaluate(
        """async () => {
            const box = document.querySelector(".virtual");
            let [longest, before] = [0, performance.now()];
            for (let step = 0; step < 60; step += 1) {
                box.scrollTop = step * 700;
                await new Promise(requestAnimationFrame);
                const now = performance.now();
                [longest, before] = [Math.max(longest, now - before), now];
            }
            return longest;
        }"""
    )
    assert longest < 500, f"a frame took {longest:.0f} ms"


@pytest.mark.slow
@pytest.mark.alone
def test_the_first_paint_comes_within_100_ms(tab: Tab, large: tuple[ServerProcess, str]) -> None:
    paints = []
    with core_waits(*descendants(os.getpid()), large[0].pid) as waits:
        for _ in range(5):
            tab.open("usage")
            tab.until(f"{PAINT}.length > 0")
            begun_at = tab.page.evaluate("performance.timeOrigin") / 1_000
            paints.append((begun_at, begun_at + tab.page.evaluate(f"{PAINT}[0].startTime") / 1_000))
    assert min(waits.beyond(*paint) for paint in paints) < PAINT_S, paints
    waits.check(PAINT_S, *paints)


def test_a_run_of_100_000_tokens_is_read_without_its_tokens(browser: Browser, console: ServerProcess) -> None:
    run_id = console.begin("long", "talk")
    console.ended(run_id)
    with tab_of(browser, str(console.http.base_url)) as tab:
        tab.open(f"runs/{run_id}?tab=transcript")
        tab.find(".entry.said").wait_for()
        assert tab.page.evaluate("document.querySelector('.entry.said').innerText.length") > 100_000
        assert len([each for each in tab.requests if "/events" in each.url]) < 10
