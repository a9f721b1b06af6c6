"""What the routes below `/api/executor/v1` take and answer."""

from typing import Any

from runstore.core import errors
from runstore.core.hierarchy import Hierarchy
from runstore.http.envelope import EXECUTOR, Success
from runstore.http.errors import Forbidden
from runstore.http.executor.routes import (
    CancelBody,
    DeletedHierarchy,
    FollowBody,
    HierarchyBody,
    HierarchyPage,
    HierarchyRecord,
    ListHierarchiesBody,
    ListRunsBody,
    RunBody,
    StartTeamBody,
    TeamRunPage,
    TeamRunRecord,
)  # fmt: skip
from runstore.http.openapi.schemas import (
    LAST_EVENT_ID,
    NOTHING_LEFT,
    OF_A_RUN,
    OF_A_START,
    RUN_HEADER,
    START_HEADERS,
    TOO_MANY_STREAMS,
    json,
    stream,
)
from runstore.http.operations import Answer, Operation, Operations, Problem, Schema
from runstore.http.requests import Body
from runstore.store.hierarchies import HierarchyNotFound, InvalidHierarchy

OF_A_HIERARCHY: tuple[Problem, ...] = (HierarchyNotFound, Forbidden)
RUN_ID_IN_BODY = "$response.body#/data/run_id"


def success(
    description: str, data: Any, headers: dict[str, Schema] | None = None, run_id: str = ""
) -> Answer:
    return json(description, Success[data], headers, run_id)


EXECUTOR_OPERATIONS: Operations = {
    ("POST", f"{EXECUTOR}/hierarchies/create"): Operation(
        id="create_hierarchy",
        summary="Store a hierarchy of agents",
        body=Body(Hierarchy),
        answers={201: success("it is stored", HierarchyRecord)},
        problems=(InvalidHierarchy, (429, errors.LimitExceeded.code)),
    ),
    ("POST", f"{EXECUTOR}/hierarchies/list"): Operation(
        id="list_hierarchies",
        summary="List hierarchies, newest first",
        body=Body(ListHierarchiesBody, optional=True),
        answers={200: success("a page of hierarchies", HierarchyPage)},
        problems=(errors.InvalidCursor,),
    ),
    ("POST", f"{EXECUTOR}/hierarchies/get"): Operation(
        id="get_hierarchy",
        summary="One hierarchy",
        body=Body(HierarchyBody),
        answers={200: success("the hierarchy", HierarchyRecord)},
        problems=OF_A_HIERARCHY,
    ),
    ("POST", f"{EXECUTOR}/hierarchies/delete"): Operation(
        id="delete_hierarchy",
        summary="Delete a hierarchy; its runs stay",
        body=Body(HierarchyBody),
        answers={200: success("it is deleted", DeletedHierarchy)},
        problems=OF_A_HIERARCHY,
    ),
    ("POST", f"{EXECUTOR}/runs/start"): Operation(
        id="start_team_run",
        summary="Start a run of a hierarchy",
        parameters=START_HEADERS,
        body=Body(StartTeamBody),
        answers={202: success("the run is stored", TeamRunRecord, RUN_HEADER, RUN_ID_IN_BODY)},
        problems=(*OF_A_START, *OF_A_HIERARCHY, InvalidHierarchy),
    ),
    ("POST", f"{EXECUTOR}/runs/stream"): Operation(
        id="follow_team_run",
        summary="Follow a run: replay, then live",
        parameters=(LAST_EVENT_ID,),
        body=Body(FollowBody),
        answers={200: stream("everything after the cursor, until the run ends"), 204: NOTHING_LEFT},
        problems=(*OF_A_RUN, errors.InvalidCursor, TOO_MANY_STREAMS),
    ),
    ("POST", f"{EXECUTOR}/runs/cancel"): Operation(
        id="cancel_team_run",
        summary="Ask a run to stop",
        body=Body(CancelBody),
        answers={
            200: success("the run has ended", TeamRunRecord),
            202: success(
                "the request is stored, and the run's end follows within the grace period", TeamRunRecord
            ),
        },
        problems=OF_A_RUN,
    ),
    ("POST", f"{EXECUTOR}/runs/get"): Operation(
        id="get_team_run",
        summary="One run",
        body=Body(RunBody),
        answers={200: success("the run", TeamRunRecord)},
        problems=OF_A_RUN,
    ),
    ("POST", f"{EXECUTOR}/runs/list"): Operation(
        id="list_team_runs",
        summary="List runs of hierarchies, newest first",
        body=Body(ListRunsBody, optional=True),
        answers={200: success("a page of runs", TeamRunPage)},
        problems=(errors.InvalidCursor, HierarchyNotFound),
    ),
}
