"""`runstore replay` and `runstore fixture`: a run's agent again, with its tools answered from the log."""

import asyncio
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runstore.cli.options import Config
from runstore.cli.runs.comparing import EXIT_DIFFERENT, EXIT_TROUBLE, read_run
from runstore.cli.runs.options import ApiKey, Json, RunId, Url, connected
from runstore.core.folds.transcript import result_text

if TYPE_CHECKING:
    from runstore.client import Client
    from runstore.runtime.replay.dialogues import RecordedRun
    from runstore.runtime.replay.follower import ReplayDifference
    from runstore.store.replays import Replayed, ReplayOptions

CLOSE_S = 5.0  # seconds for the agent's MCP servers to close
NOTHING = "(nothing)"


def replay(
    run_id: RunId,
    model: Annotated[str | None, typer.Option(help="The id of another model of the same provider.")] = None,
    live: Annotated[
        bool,
        typer.Option("--live", help="Go on after the first difference. Tools whose calls differ really run."),
    ] = False,
    only_calls: Annotated[
        bool,
        typer.Option("--only-calls", help="Compare tool calls and the ending, not what models say."),
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, max=86_400, help="Seconds that the replay may take.")
    ] = 600,
    config: Config = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Run a run's agent again, with tools answered from the log, and report the first difference.

    The run is read from a server. The agent and its model are those of the configuration on this machine. A
    tool whose call equals the recorded one gets the recorded result, and does not run. Nothing is written to
    the log. The exit code is 0 if the replay equals its run, 1 if it differs, 2 if it could not take place.

    Example: runstore replay 01890a5d-ac96-774b-bcce-b302099a8057 --only-calls
    """
    from runstore.cli.output import print_json
    from runstore.logs import configure_logs
    from runstore.settings import load_settings
    from runstore.store.replays import ReplayOptions

    configure_logs()
    settings = load_settings(config, models=True)
    options = ReplayOptions(model=model, live=live, only_calls=only_calls, timeout_s=timeout_s)
    with connected(url, api_key, failed=EXIT_TROUBLE) as client:
        run = read_run(client, run_id)
        run.memory = memory_of(client, run)
    with redirect_stdout(sys.stderr):  # what an agent prints is no result
        done = asyncio.run(_replay(settings, run, options))
    if as_json:
        print_json([done])
    else:
        _print(done)
    if not done.equal:
        raise typer.Exit(EXIT_DIFFERENT)


def memory_of(client: "Client", run: "RecordedRun") -> list[Any]:
    """The messages of the session's earlier runs with which a run began.

    Raises:
        InvalidQuery: they are not in the log, or can no longer be read.
    """
    from runstore.store.replays import memory_in, root_request

    if not run.remembers:
        return []
    first = root_request(client.requests(run.run_id))
    return memory_in(client.request(run.run_id, first), run.input)


async def _replay(settings: Any, run: "RecordedRun", options: "ReplayOptions") -> "Replayed":
    from runstore.app import catalog_of
    from runstore.runtime.holders import wait_until_closed
    from runstore.store.replays import replay as run_again

    try:
        return await run_again(catalog_of(settings), run, options)
    finally:
        await asyncio.to_thread(wait_until_closed, CLOSE_S)


def _print(done: "Replayed") -> None:
    from runstore.cli.output import print_fields

    shown: dict[str, Any] = {"replay": "equal" if done.equal else "differs"}
    if done.difference is not None:
        shown |= shown_difference(done.difference)
    shown |= {
        "answered": done.answered and f"{done.answered} tool calls, from the log",
        "called": done.called and f"{done.called} tool calls, for real",
        "ended": done.ended,
        "error": done.error,
        "text": result_text(done.result),
    }
    print_fields(shown)


def shown_difference(difference: "ReplayDifference") -> dict[str, Any]:
    """A difference, as fields to print."""
    place = [f"{difference.kind} of {difference.agent}"]
    if difference.answer is not None:
        place.append(f"answer {difference.answer}")
    if difference.seq is not None:
        place.append(f"seq {difference.seq}")
    recorded, came = (NOTHING if each is None else each for each in (difference.recorded, difference.came))
    return {"at": ", ".join(place), "recorded": recorded, "came": came}


def fixture(run_id: RunId, url: Url = None, api_key: ApiKey = None) -> None:
    """Print a run as a fixture: a file for a test that replays it without a network.

    It holds what the agents' models said and what their tools returned, as far as you may read it. A test
    calls `runstore.testing.replay_fixture` with the file and the agent.

    Example: runstore fixture 01890a5d-ac96-774b-bcce-b302099a8057 > tests/refund.json
    """
    from runstore.runtime.replay.fixture import fixture_file, fixture_of

    with connected(url, api_key, failed=EXIT_TROUBLE) as client:
        run = read_run(client, run_id)
        run.memory = memory_of(client, run)
    made = fixture_file(fixture_of(run))
    if run.withheld:
        typer.echo(
            f"runstore: {run.withheld} messages of the run are redacted; "
            "the fixture has a placeholder for each",
            err=True,
        )
    sys.stdout.buffer.write(made)
    sys.stdout.buffer.flush()
