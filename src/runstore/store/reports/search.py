"""Full-text search over inputs, answers and tool calls."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, func, select

from runstore.core.folds.run_text import words_of
from runstore.database.tables import events, runs
from runstore.projections.text import TextProjection, text_of
from runstore.projections.text_query import TextQuery
from runstore.store.reports.conditions import equal, tables_of
from runstore.store.whole_log import begin_of, end_of

FIRST_SCANNED = 500  # matches of a search that are examined for one page at first: mostly enough
MAX_SCANNED = 10_000  # matches that are examined at most
MAX_READ = 1 << 20  # bytes of the events of one page of hits; the event that crosses it is the last
SNIPPET = 160  # characters of text around a match


class SearchQuery(Struct, frozen=True, kw_only=True):
    """`text`: plain words and "phrases". `kind`: `input`, `answer` or `tool`. `before`: a position.

    `since`, `until`: when it was said, ms since 1970, both inclusive.
    """

    text: str
    user_id: str | None = None
    agent: str | None = None
    kind: str | None = None
    run_id: str | None = None
    since: int | None = None
    until: int | None = None
    deleted: bool = True  # also in deleted runs
    before: int | None = None
    limit: int = 50


class Hit(Struct, frozen=True):
    """An event whose text matches. `agent`: the path of the agent that it is of; `at`: ms since 1970."""

    position: int
    run_id: str
    seq: int
    kind: str
    agent: str
    user_id: str
    at: int
    deleted: bool
    snippet: str


class Found(Struct, frozen=True):
    """A page of hits, newest first. `next`: the `before` of the following page, which may be empty."""

    hits: list[Hit]
    next: int | None


def search(connection: Connection, query: SearchQuery) -> Found:
    """The matching events, newest first.

    At most MAX_SCANNED matches are examined for the other filters, and about MAX_READ bytes of data are read.
    """
    asked = TextQuery.parse(query.text)
    found = _search(connection, query, asked, FIRST_SCANNED)
    return found or _search(connection, query, asked, MAX_SCANNED) or Found([], None)


def _search(connection: Connection, query: SearchQuery, asked: TextQuery, most: int) -> Found | None:
    """The page of the newest matches, of which `most` are examined; None: more have to be."""
    table = tables_of(connection, TextProjection())["text"]
    others = equal(table, kind=query.kind, run_id=query.run_id)
    newest = None if others else most
    before = _before(connection, query)
    matching = select(table).where(asked.matches(table, newest=newest, before=before), *others)
    if before is not None:
        matching = matching.where(table.c.position < before)
    if query.since is not None:
        matching = matching.where(table.c.position > begin_of(connection, query.since))
    scanned = matching.order_by(table.c.position.desc()).limit(most).subquery()
    wanted = equal(runs, user_id=query.user_id, agent_name=query.agent)
    if not query.deleted:
        wanted.append(runs.c.deleted == 0)
    if query.since is not None:
        wanted.append(events.c.at >= query.since)
    if query.until is not None:
        wanted.append(events.c.at <= query.until)
    s = scanned.c
    of_runs = scanned.join(runs, runs.c.run_id == s.run_id)
    rows = connection.execute(
        select(*s, runs.c.user_id, runs.c.deleted, events.c.at, func.length(events.c.data).label("size"))
        .select_from(of_runs.join(events, events.c.position == s.position))
        .where(*wanted)
        .order_by(s.position.desc())
        .limit(query.limit + 1)
    ).all()  # fmt: skip
    following = None
    if len(rows) <= query.limit:
        count, last = connection.execute(select(func.count(), func.min(s.position))).one()
        if count == most < MAX_SCANNED:
            return None
        following = last if count == MAX_SCANNED else None
    sizes = accumulate(row.size for row in rows[: query.limit])
    page = [row for row, upto in zip(rows, sizes, strict=False) if upto - row.size < MAX_READ]
    following = page[-1].position if len(rows) > len(page) else following
    return Found(_hits(connection, page, asked), following)


def _before(connection: Connection, query: SearchQuery) -> int | None:
    """The position before which the hits are."""
    if query.until is None:
        return query.before
    end = end_of(connection, query.until)
    return end if query.before is None else min(end, query.before)


def _hits(connection: Connection, page: Sequence[Any], asked: TextQuery) -> list[Hit]:
    texts = _read_texts(connection, [row.position for row in page])
    return [
        Hit(
            row.position, row.run_id, row.seq, row.kind, row.agent, row.user_id, row.at, bool(row.deleted),
            snippet(texts[row.position], asked),
        )
        for row in page
        if row.position in texts  # neither purged nor redacted since it was indexed
    ]  # fmt: skip


def _read_texts(connection: Connection, positions: Sequence[int]) -> dict[int, str]:
    e = events.c
    rows = connection.execute(select(e.position, e.type, e.data).where(e.position.in_(positions)))
    texts = {position: text_of(type, data) for position, type, data in rows}
    return {position: text for position, text in texts.items() if text}


def snippet(text: str, asked: TextQuery) -> str:
    """A line of the text around the first word that was asked for."""
    line = " ".join(text.split())
    first = asked.phrases[0]
    at, start = 0, 0
    for piece in line.split(" "):
        if first[0] in words_of(piece):
            at = start
            break
        start += len(piece) + 1
    begin = max(0, at - SNIPPET // 3)
    cut = line[begin : begin + SNIPPET]
    return f"{'…' if begin else ''}{cut}{'…' if begin + SNIPPET < len(line) else ''}"
