"""What the routes below `/agents` and `/runs` take and answer."""

import re

from runstore.core import errors
from runstore.core.events import CUSTOM_TYPE, EVENT_CLASSES
from runstore.core.ids import UUID_TEXT
from runstore.core.limits import MAX_FILTER_TYPES
from runstore.core.run import STATUSES
from runstore.core.stream_cursors import MAX_FOLLOWED_RUNS
from runstore.http.errors import Forbidden
from runstore.http.native.agents import AgentPage, CodeBody, CodeStreamBody, StartBody, StreamBody
from runstore.http.native.included import INCLUDES, EventPage
from runstore.http.native.runs import (
    EITHER,
    FORMATS,
    MAX_PAGE,
    MAX_WAIT_S,
    NDJSON,
    AppendBody,
    Appended,
    RunPage,
    RunRecord,
    StopBody,
)  # fmt: skip
from runstore.http.native.tickets import SeveralBody, TicketAnswer, TicketBody
from runstore.http.openai.operations import CHUNKS
from runstore.http.openapi.schemas import (
    CURSOR,
    FROM_HEADER,
    JSON,
    LAST_EVENT_ID,
    LAST_EVENT_ID_PARAMETER,
    NOT_MODIFIED,
    NOTHING_LEFT,
    OF_A_START,
    RUN_HEADER,
    RUN_ID,
    SEVERAL,
    START_HEADERS,
    STREAM,
    TEXT,
    TOO_MANY_STREAMS,
    UUID,
    json,
    stream,
    whole,
)
from runstore.http.operations import Answer, Operation, Operations, Parameter, Schema
from runstore.http.requests import FAMILIES, MAX_CURSOR_DIGITS, Body

OF_AN_AGENT = (*OF_A_START, Forbidden, errors.AgentNotFound)

PLACES: Schema = {"type": "string"}
PAGE = whole(1, MAX_PAGE, 100)
MOMENT: Schema = {"type": "string", "format": "date-time"}

AGENT = Parameter("agent", TEXT, "the agent's name", "path")
AFTER = Parameter("after", CURSOR, "a cursor: events with a greater seq")
ONE_TYPE = "|".join(
    [
        "|".join(re.escape(name) for name in EVENT_CLASSES),
        "|".join(re.escape(f"{family}*") for family in sorted(FAMILIES)),
        CUSTOM_TYPE.pattern,
        rf"{CUSTOM_TYPE.pattern.replace('{1,120}', '{0,119}')}\.\*",
    ]
)
TYPES = Parameter(
    "types",
    {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_FILTER_TYPES,
        "items": {"type": "string", "pattern": f"^(?:{ONE_TYPE})$"},
    },
    "only events of these types; terminal events always pass",
)
FORMAT = Parameter(
    "format",
    {"enum": list(FORMATS), "default": FORMATS[0]},
    "`openai`: as chunks of a chat completion, and without `types`",
)
LINES: Schema = {
    "type": "string",
    "description": "One EventRecord on each line: what is stored now, without waiting for more.",
}
STARTED = json(
    "the run is stored, and starts as soon as there is a place for it",
    RunRecord,
    {"Location": {"type": "string", "format": "uri-reference"}, **RUN_HEADER},
    "$response.body#/run_id",
)
FOLLOWED = stream("the run's events, from the first one on", RUN_HEADER, FROM_HEADER)

RUN_OPERATIONS: Operations = {
    ("GET", "/agents"): Operation(
        id="list_agents",
        summary="The agents that can be started",
        answers={200: json("all of them", AgentPage)},
    ),
    ("POST", "/agents/run-code/start"): Operation(
        id="start_code",
        summary="Run Python, where that is enabled",
        parameters=START_HEADERS,
        body=Body(CodeBody),
        answers={202: STARTED},
        problems=OF_AN_AGENT,
    ),
    ("POST", "/agents/run-code/stream"): Operation(
        id="start_and_follow_code",
        summary="Run Python and follow it, where that is enabled",
        parameters=START_HEADERS,
        body=Body(CodeStreamBody),
        answers={200: FOLLOWED},
        problems=OF_AN_AGENT,
    ),
    ("POST", "/agents/{agent}/start"): Operation(
        id="start_run",
        summary="Start a run",
        parameters=(AGENT, *START_HEADERS),
        body=Body(StartBody),
        answers={202: STARTED},
        problems=OF_AN_AGENT,
    ),
    ("POST", "/agents/{agent}/stream"): Operation(
        id="start_and_follow_run",
        summary="Start a run and follow it",
        parameters=(AGENT, *START_HEADERS),
        body=Body(StreamBody),
        answers={200: FOLLOWED},
        problems=OF_AN_AGENT,
    ),
    ("GET", "/runs"): Operation(
        id="list_runs",
        summary="List runs, newest first",
        parameters=(
            Parameter("status", {"enum": list(STATUSES)}),
            Parameter("agent", TEXT, "the agent's name"),
            Parameter("session_id", TEXT),
            Parameter("workspace_id", TEXT, "the runs of this workspace, whoever's they are"),
            Parameter("since", MOMENT, "created then or later"),
            Parameter("until", MOMENT, "created then or earlier"),
            Parameter(
                "purged",
                {"type": "boolean", "default": False},
                "`true`: the runs that were purged, and no others",
            ),
            Parameter("limit", PAGE),
            Parameter("after", UUID, "the `next` of an earlier page"),
        ),
        answers={200: json("a page of runs", RunPage)},
        problems=(errors.InvalidCursor, Forbidden),
    ),
    ("GET", "/runs/{run_id}"): Operation(
        id="get_run",
        summary="One run, now or at an earlier event",
        parameters=(
            RUN_ID,
            Parameter("at", whole(1, 10**MAX_CURSOR_DIGITS - 1), "a seq: the run as it was after that event"),
            Parameter(
                "wait",
                {"type": "number", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0},
                "seconds: answer when the run has ended, or after so long",
            ),
            Parameter(
                "include",
                {"type": "array", "minItems": 1, "items": {"enum": list(INCLUDES)}},
                "what the record is to have besides",
            ),
        ),
        answers={200: json("the run", RunRecord)},
        problems=(errors.InvalidCursor, TOO_MANY_STREAMS),
    ),
    ("DELETE", "/runs/{run_id}"): Operation(
        id="delete_run",
        summary="Take a closed run out of the lists",
        parameters=(RUN_ID,),
        answers={204: Answer(description="it is deleted")},
        problems=(errors.RunActive, errors.RunClosed),
    ),
    ("GET", "/runs/{run_id}/events"): Operation(
        id="list_events",
        summary="A run's events as pages or as NDJSON",
        parameters=(
            RUN_ID,
            AFTER,
            LAST_EVENT_ID,
            LAST_EVENT_ID_PARAMETER,
            Parameter("limit", PAGE, "of NDJSON any number; all if not given"),
            TYPES,
            Parameter("If-None-Match", TEXT, "the ETag of a page", "header"),
        ),
        answers={
            200: Answer(
                description="a page, with an `ETag` once the run is closed; NDJSON if `Accept` names it",
                content={JSON: EventPage, NDJSON: LINES},
            ),
            304: NOT_MODIFIED,
        },
        problems=(errors.InvalidCursor,),
    ),
    ("POST", "/runs/{run_id}/events"): Operation(
        id="append_events",
        summary="Add events of your own to a run that has not ended",
        parameters=(RUN_ID,),
        body=Body(AppendBody, EITHER),
        answers={201: json("they are stored", Appended)},
        problems=(
            errors.InvalidEvent,
            errors.WrongExpectedSeq,
            errors.RunClosed,
            errors.EventTooLarge,
            (413, errors.LimitExceeded.code),
        ),
    ),
    ("GET", "/runs/{run_id}/stream"): Operation(
        id="follow_run",
        summary="Follow a run: replay, then live",
        parameters=(RUN_ID, AFTER, LAST_EVENT_ID, LAST_EVENT_ID_PARAMETER, TYPES, FORMAT),
        answers={
            200: stream(
                "everything after the cursor, until the run ends", schema={"anyOf": [STREAM, CHUNKS]}
            ),
            204: NOTHING_LEFT,
        },
        problems=(errors.InvalidCursor, TOO_MANY_STREAMS),
        by_ticket=True,
    ),
    ("GET", "/stream"): Operation(
        id="follow_runs",
        summary="Follow several runs, or all of one's own, in one stream",
        parameters=(
            Parameter(
                "run_id",
                {
                    "type": "array",
                    "maxItems": MAX_FOLLOWED_RUNS,
                    "uniqueItems": True,
                    "items": {"type": "string", "pattern": f"^{UUID_TEXT.pattern}(:[0-9]{{1,18}})?$"},
                },
                "a run, with the seq after which it is wanted; given once for each. None: all of one's own",
            ),
            Parameter("after", PLACES, "the `id` of an event of such a stream"),
            Parameter("lastEventId", PLACES, "the same, as polyfills send it"),
            Parameter("Last-Event-ID", PLACES, "the same, and goes before it", "header"),
            TYPES,
        ),
        answers={
            200: stream("everything after the places, until all named runs have ended", schema=SEVERAL),
            204: NOTHING_LEFT,
        },
        problems=(errors.InvalidCursor, errors.RunNotFound, Forbidden, TOO_MANY_STREAMS),
        by_ticket=True,
    ),
    ("POST", "/stream/ticket"): Operation(
        id="create_streams_ticket",
        summary="A ticket for such a stream",
        body=Body(SeveralBody, optional=True),
        answers={201: json("the ticket", TicketAnswer, {"Cache-Control": {"const": "no-store"}})},
        problems=(errors.RunNotFound, Forbidden),
    ),
    ("POST", "/runs/{run_id}/stop"): Operation(
        id="stop_run",
        summary="Ask a run to stop",
        parameters=(RUN_ID,),
        body=Body(StopBody, optional=True),
        answers={
            200: json("the run has ended", RunRecord),
            202: json("the request is stored, and the run's end follows within the grace period", RunRecord),
        },
    ),
    ("POST", "/runs/{run_id}/ticket"): Operation(
        id="create_ticket",
        summary="A ticket for the run's stream, for clients that cannot send headers",
        parameters=(RUN_ID,),
        body=Body(TicketBody, optional=True),
        answers={201: json("the ticket", TicketAnswer, {"Cache-Control": {"const": "no-store"}})},
    ),
}
