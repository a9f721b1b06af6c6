"""Text of models, tools and users that tries to be more than text, in every field that they can fill."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.http.console.conftest import AGENTS, CONFIG
from tests.http.console.tab import Tab, tab_of
from tests.kit.keys import make_key
from tests.kit.server import ServerProcess, serving, until

HELD_UP_S = (
    20  # far more than a busy machine needs, and far less than a text whose time grows with its square
)
MOST_ELEMENTS = 6_000  # elements of a page, for any text
MOST_IN_DOCUMENT = 60_000  # whatever all texts of a page ask for together
HIDING = r"/[\u202a-\u202e\u2066-\u2069\u001b]/"
PWN = "window.pwned=1"
ATTACKS = (
    f"<script>{PWN}</script>",
    f"<img src=x onerror={PWN}>",
    f"<svg onload={PWN}><animate onbegin={PWN} attributeName=x dur=1s>",
    f"[click me](javascript:{PWN}) [data](data:text/html,<script>{PWN}</script>) ![i](https://evil.example/x.png)",
    f'"><iframe srcdoc="<script>parent.{PWN}</script>"></iframe>',
    "[https://good.example](https://evil.example/)",
    "\x1b[31mred\x1b[0m \x1b]8;;https://evil.example\x07link\x1b]8;;\x07",
    "user\u202egnp.exe \u2066isolated\u2069 zero\u200bwidth",
    "${window.pwned=1} {{constructor.constructor('window.pwned=1')()}} </textarea></title>",
)
EVERYTHING = "\n\n".join(ATTACKS)
HOSTILE = """

def hostile():
    import asyncio, os
    from runstore import AgentError
    text = open(os.path.join(os.path.dirname(__file__), "attack.txt")).read()

    async def speak(input):
        yield {"type": "custom.<b>", "data": text} if False else text
    return speak


def costly():
    async def speak(input):
        yield {
            "stars": "**a " * 49_000,
            "ticks": " ".join("`" * n for n in range(1, 600)),
            "links": "[a](http://b.c) " * 12_000,
            "items": "- x\\n" * 45_000,
            "marks": "\\u202e" * 190_000,
            "paragraphs": ("\\u202ea\\u200b" * 40 + "\\n\\n") * 1_500,
            "table": "|a|b|c|\\n|-|-|-|\\n" + "|a|b|c|\\n" * 24_000,
            "wide": "|a" * 49_000 + "|\\n" + "|-" * 49_000 + "|\\n",
            "cells": "|a|\\n|-|\\n" + ("|" * 900 + "\\n") * 200,
        }[input]
    return speak


def asking():
    async def ask(input, ctx):
        import os
        text = open(os.path.join(os.path.dirname(__file__), "attack.txt")).read()
        one, other = {"type": "string", "title": text, "description": text}, {"enum": [text, text]}
        fields = {"evil": one, text[:200]: other}
        yield str(await ctx.ask(text, schema={"type": "object", "title": text, "properties": fields}))
    return ask


def choosing():
    async def ask(input, ctx):
        import os
        text = open(os.path.join(os.path.dirname(__file__), "attack.txt")).read()
        yield str(await ctx.ask(text, schema={"enum": [text, text + "!"]}))
    return ask


@tool
def evil_tool(word: str) -> str:
    \"\"\"Answer with an attack.\"\"\"
    import os
    return open(os.path.join(os.path.dirname(__file__), "attack.txt")).read()


def evil_clerk():
    return Agent(model=ScriptedModel(), tools=[evil_tool])


def evil_end():
    from runstore import AgentError
    import os
    raise AgentError(open(os.path.join(os.path.dirname(__file__), "attack.txt")).read(), code="<b>code</b>")
"""
FORBIDDEN = "#app script, iframe, object, embed, #app img:not([src^='data:image']), [onerror], [onload]"
NAME = "<img src=x onerror=window.pwned=1>\u202e"  # of a user and a session


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, str, list[str]]]:
    """A server whose user, sessions, inputs, metadata, answers, tools, errors and notes are attacks."""
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "attack.txt").write_text(EVERYTHING)
    key = make_key(folder, NAME, "admin")
    agents = "".join(f'\n[agents.{name}]\nfactory = "agents:{name.replace("-", "_")}"\n' for name in
                     ("hostile", "evil-clerk", "evil-end", "costly", "asking", "choosing"))  # fmt: skip
    with serving(folder, CONFIG + agents, AGENTS + HOSTILE) as server:
        server.http.headers["Authorization"] = f"Bearer {key}"
        body: dict[str, Any] = {"session_id": NAME, "metadata": {NAME: EVERYTHING}}
        image = {"image": {"format": "png", "source": {"bytes": "aGk="}}}
        runs = [
            server.begin("quick", EVERYTHING, **body),
            server.begin("hostile", EVERYTHING, **body),
            server.begin("evil-clerk", EVERYTHING, **body),
            server.begin("evil-end", EVERYTHING, **body),
            server.begin("quick", [{"text": EVERYTHING}, image], **body),
        ]
        ended = [server.ended(run_id)["status"] for run_id in runs]
        assert ended == ["success", "success", "success", "error", "success"]
        silent = server.begin("silent", EVERYTHING)
        until(lambda: server.record(silent)["last_seq"] >= 3, "the run has started")
        server.note(silent, EVERYTHING)
        server.http.post(f"/runs/{silent}/stop", json={"reason": ATTACKS[1]})
        server.ended(silent)
        until(lambda: server.http.get("/audit/tools").json()["data"], "the projections have the tools")
        yield server, key, [*runs, silent]


@pytest.fixture
def victim(browser: Browser, attacked: tuple[ServerProcess, str, list[str]]) -> Iterator[Tab]:
    server, key, _ = attacked
    with tab_of(browser, str(server.http.base_url)) as tab:
        tab.open()
        tab.find("#key").fill(key)
        tab.find("button[type=submit]").click()
        tab.find(".run-row").first.wait_for()
        yield tab


def untouched(tab: Tab) -> None:
    tab.until("document.querySelector('main > *') && !document.querySelector('[aria-busy]')")
    assert tab.page.evaluate(f"!{HIDING}.test(document.body.innerText)")
    assert tab.page.evaluate(
        f"![...document.querySelectorAll('*')].some((each) => {HIDING}.test(each.title + each.ariaLabel))"
    )
    assert tab.page.evaluate("window.pwned === undefined")
    assert tab.find(FORBIDDEN).count() == 0
    links = tab.page.evaluate("[...document.querySelectorAll('a')].map((link) => link.protocol)")
    assert set(links) <= {"http:", "https:"}
    assert {each.url.split("/")[2] for each in tab.requests} == {tab.url.split("/")[2]}


def test_no_page_runs_loads_or_links_what_a_text_asks_for(
    victim: Tab, attacked: tuple[ServerProcess, str, list[str]]
) -> None:
    _, _, runs = attacked
    pages = ["runs", "sessions", "users", "tools", "usage", "system", f"compare?a={runs[0]}&b={runs[1]}"]
    pages += [f"start?from={run_id}" for run_id in runs[:2]]
    for run_id in runs:
        pages += [f"runs/{run_id}", f"runs/{run_id}?tab=transcript", f"runs/{run_id}?tab=record"]
    for page in pages:
        victim.open(page)
        untouched(victim)
    victim.open("sessions")
    victim.find("table.list a").first.click()
    untouched(victim)


@pytest.mark.slow
def test_every_step_and_event_is_only_text(
    victim: Tab, attacked: tuple[ServerProcess, str, list[str]]
) -> None:
    _, _, runs = attacked
    for run_id in runs:
        victim.open(f"runs/{run_id}")
        victim.find(".step:not(.axis)").first.wait_for()
        for step in victim.find(".step:not(.axis)").all():
            step.click()
            untouched(victim)
        victim.open(f"runs/{run_id}?tab=events")
        victim.find(".event .type").first.wait_for()
        for event in victim.find(".event").all()[:12]:
            event.click()
            untouched(victim)


def test_many_hostile_texts_together_keep_the_document_small(
    victim: Tab, attacked: tuple[ServerProcess, str, list[str]]
) -> None:
    """Each list and text alone is within its bounds; together they ask for a million elements."""
    server = attacked[0]
    run_id = server.begin("silent", [{"text": "a\u202e" * 100}] * 100)
    rows = [["x\u202ey" * 20] * 60] * 60
    events = [{"type": "custom.note", "data": rows}] * 6
    for event in events:
        assert server.http.post(f"/runs/{run_id}/events", json=event).status_code == 201
    server.stop_run(run_id)
    for page in (f"runs/{run_id}?tab=transcript", f"runs/{run_id}?tab=record"):
        victim.open(page)
        victim.find(".json, .blocks").first.wait_for()
        assert victim.page.evaluate("document.querySelectorAll('*').length") < MOST_IN_DOCUMENT, page
        untouched(victim)


def test_hidden_characters_are_shown_by_their_names(
    victim: Tab, attacked: tuple[ServerProcess, str, list[str]]
) -> None:
    _, _, runs = attacked
    victim.open(f"runs/{runs[1]}?tab=transcript")
    for mark in ("U+202E", "U+2066", "U+200B", "␛"):
        victim.shows(f"⟨{mark}⟩", ".entry.said")
    assert victim.page.evaluate(f"!{HIDING}.test(document.body.innerText)")


def test_a_link_shows_where_it_leads(victim: Tab, attacked: tuple[ServerProcess, str, list[str]]) -> None:
    _, _, runs = attacked
    victim.open(f"runs/{runs[1]}?tab=transcript")
    link = victim.find(".entry.said a[href='https://evil.example/']").first
    assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    victim.shows("(evil.example)")


def test_a_kept_file_is_only_text(
    victim: Tab, attacked: tuple[ServerProcess, str, list[str]], tmp_path: Path
) -> None:
    _, _, runs = attacked
    victim.open(f"runs/{runs[2]}")
    victim.find("summary", has_text="Keep").click()
    with victim.page.expect_download() as download:
        victim.find(".menu-list button", has_text="HTML").click()
    kept = tmp_path / "kept.html"
    download.value.save_as(kept)
    page = victim.page.context.new_page()
    page.goto(kept.as_uri())
    assert page.evaluate(
        "window.pwned === undefined && document.querySelectorAll('script, iframe, svg, a').length === 0"
    )
    assert "evil_tool" in page.inner_text("body")


@pytest.mark.parametrize(
    "text", ["stars", "ticks", "links", "items", "marks", "paragraphs", "table", "wide", "cells"]
)
def test_no_markdown_holds_the_page_up(
    victim: Tab, attacked: tuple[ServerProcess, str, list[str]], text: str
) -> None:
    run_id = attacked[0].begin("costly", text)
    assert attacked[0].ended(run_id)["status"] == "success"
    began = time.monotonic()
    victim.open(f"runs/{run_id}?tab=transcript")
    victim.find(".entry.said .prose").first.wait_for()
    assert time.monotonic() - began < HELD_UP_S
    assert victim.page.evaluate("document.querySelectorAll('*').length") < MOST_ELEMENTS
    untouched(victim)


def test_a_question_is_only_text(victim: Tab, attacked: tuple[ServerProcess, str, list[str]]) -> None:
    server = attacked[0]
    for agent in ("asking", "choosing"):
        run_id = server.begin(agent, EVERYTHING)
        server.waiting(run_id)
        for page in ("inbox", f"runs/{run_id}", f"runs/{run_id}?tab=transcript"):
            victim.open(page)
            victim.find(".question").first.wait_for()
            untouched(victim)
            assert victim.page.evaluate(f"!{HIDING}.test(document.body.innerText)"), page
            assert victim.page.evaluate(
                f"![...document.querySelectorAll('option')].some((each) => {HIDING}.test(each.text))"
            )
            assert victim.page.evaluate("document.querySelector('main').scrollWidth <= innerWidth"), page
        server.stop_run(run_id)
