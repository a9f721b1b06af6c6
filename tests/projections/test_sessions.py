"""Sessions: titles, times and counts, compared with a plain fold of the log."""

from typing import Any

from runstore.core.codec import decode
from runstore.core.events import Completed, Deleted, Ending, Purged, Queued
from runstore.core.folds.run_text import input_text
from runstore.projections.sessions import MAX_TITLE, SessionsProjection, title_of
from tests.projections.conftest import Tables
from tests.projections.history import History


def by_hand(history: History) -> dict[tuple[str, str], dict[str, Any]]:
    sessions: dict[tuple[str, str], dict[str, Any]] = {}
    runs: dict[str, dict[str, Any]] = {}
    for recorded in history.appended:
        match event := decode(recorded.type, recorded.version, recorded.data):
            case Queued() if event.session_id is not None:
                title = " ".join(input_text(event.input).split())
                runs[recorded.run_id] = {
                    "key": (event.user_id, event.session_id), "title": title, "times": [recorded.at],
                    "status": "open", "deleted": False,
                }  # fmt: skip
            case Ending() if recorded.run_id in runs:
                runs[recorded.run_id]["status"] = event.status
                runs[recorded.run_id]["times"].append(recorded.at)
            case Deleted() if recorded.run_id in runs:
                runs[recorded.run_id]["deleted"] = True
            case Purged() if recorded.run_id in runs:
                runs[recorded.run_id]["title"] = None
    for run in runs.values():
        if not run["deleted"]:
            session = sessions.setdefault(run["key"], {"title": None, "times": [], "statuses": []})
            session["times"] += run["times"]
            session["statuses"].append(run["status"])
            session["title"] = run["title"] if session["title"] is None else session["title"]
    return sessions


def test_sessions_are_what_a_plain_fold_of_the_log_comes_to(tables: Tables) -> None:
    history = History(13).write(70)
    bound = tables.fill(SessionsProjection(), [history.appended])
    found = {(row.user_id, row.session_id): row for row in tables.rows(bound, 0)}
    expected = by_hand(history)
    assert found.keys() == expected.keys()
    for key, session in expected.items():
        row, statuses = found[key], session["statuses"]
        assert row.title == session["title"]
        assert (row.first_at, row.last_at) == (min(session["times"]), max(session["times"]))
        counts = [statuses.count(status) for status in ("open", "success", "error", "stopped")]
        assert [row.runs, row.open, row.succeeded, row.failed, row.stopped] == [len(statuses), *counts]


def test_a_session_takes_its_title_from_the_next_run_when_its_first_one_is_deleted(tables: Tables) -> None:
    history = History()
    for run_id, asked in (("r1", "first"), ("r2", "second")):
        history.append(run_id, Queued(agent="demo", user_id="ann", session_id="s", input=asked))
        history.append(run_id, Completed(result={}))
    bound = tables.fill(SessionsProjection(), [history.appended])
    assert [row.title for row in tables.rows(bound, 0)] == ["first"]
    gone = history.append("r1", Deleted(by="ann"))
    tables.append(bound, [gone])
    (row,) = tables.rows(bound, 0)
    assert (row.title, row.runs) == ("second", 1)
    assert row.first_at == history.appended[2].at
    gone = history.append("r2", Deleted(by="ann"))
    tables.append(bound, [gone])
    assert tables.rows(bound, 0) == []


def test_a_title_is_one_short_line() -> None:
    assert title_of("  two\n\n lines\0 ") == "two lines"
    assert len(title_of("x" * 1_000)) == MAX_TITLE
    messages = [
        {"role": "system", "content": [{"text": "no"}]},
        {"role": "user", "content": [{"text": "yes"}]},
    ]
    assert title_of(messages) == "yes"
