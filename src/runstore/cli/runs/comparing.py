"""`runstore runs diff`: one run at two of its events, or two runs."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.text import Text

from runstore.cli.runs.options import ApiKey, Json, RunId, Url, connected
from runstore.core.errors import ConfigError, RunstoreError

if TYPE_CHECKING:
    from runstore.client import Client
    from runstore.runtime.replay.comparison import DiffLine
    from runstore.runtime.replay.dialogues import RecordedRun

EXIT_DIFFERENT = 1
EXIT_TROUBLE = 2  # the exit code of diff(1) for trouble: the runs could not be compared
MAX_SEQ_DIGITS = 18
_STYLES = {"-": "red", "+": "green", "=": ""}


def diff(
    run_id: RunId,
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="Another run, or a seq of this one.", show_default=False)
    ],
    seq: Annotated[
        str | None, typer.Argument(metavar="SEQ", help="Another seq of this run.", show_default=False)
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 if there are differences, as `git diff` does.")
    ] = False,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Compare two runs message by message, or one run at two of its seqs by its fields.

    Lines of two runs begin with - (in the first alone), + (in the second alone) or a space. Messages are
    compared agent by agent; models and system prompts are shown only where they differ.

    Example: runstore runs diff 01890a5d-ac96-774b-bcce-b302099a8057 01890a60-2e6b-7bd0-8a0a-34c2d6d0b2c7

    Example: runstore runs diff 01890a5d-ac96-774b-bcce-b302099a8057 2 40
    """
    if seq is not None:
        differ = _diff_states(run_id, _seq(other), _seq(seq), as_json, url, api_key)
    elif _is_seq(other):
        raise typer.BadParameter("give two seqs of the run, or another run", param_hint="OTHER")
    else:
        differ = _diff_runs(run_id, other, as_json, url, api_key)
    if exit_code and differ:
        raise typer.Exit(EXIT_DIFFERENT)


def read_run(client: "Client", run_id: str, *, asked: bool = False) -> "RecordedRun":
    """A run with what its agents said. `asked`: also their models and system prompts.

    Raises:
        ConfigError: it is too large, or no run of an agent.
    """
    from runstore.runtime.replay.dialogues import ASKED_TYPES, SPOKEN_TYPES, recorded_run

    try:
        return recorded_run(client.events(run_id, types=ASKED_TYPES if asked else SPOKEN_TYPES))
    except RunstoreError as error:
        raise ConfigError(str(error)) from error


def _diff_states(
    run_id: str, first: int, second: int, as_json: bool, url: str | None, api_key: str | None
) -> bool:
    from runstore.cli.output import print_json, print_table

    with connected(url, api_key, failed=EXIT_TROUBLE) as client:
        before, later = (msgspec.to_builtins(client.get(run_id, at=at)) for at in (first, second))
    changed = [(name, before[name], later[name]) for name in before if before[name] != later[name]]
    if as_json:
        print_json({"field": name, "a": a, "b": b} for name, a, b in changed)
    else:
        print_table(("FIELD", f"AT {first}", f"AT {second}"), changed)
    return bool(changed)


def _diff_runs(run_id: str, other: str, as_json: bool, url: str | None, api_key: str | None) -> bool:
    from runstore.cli.output import print_json, print_table
    from runstore.runtime.replay.comparison import run_diff

    with connected(url, api_key, failed=EXIT_TROUBLE) as client:
        lines = run_diff(*(read_run(client, each, asked=True) for each in (run_id, other)))
    if as_json:
        print_json(lines)
    else:
        print_table(("", "AGENT", "KIND", "CONTENT"), map(_row, lines))
    return any(line.mark != "=" for line in lines)


def _row(line: "DiffLine") -> tuple[Any, ...]:
    from runstore.cli.output import data_cell

    kind = line.kind if line.name is None else f"{line.kind} {line.name}"
    cells = (" " if line.mark == "=" else line.mark, line.agent, kind, line.content)
    return tuple(Text(data_cell(cell) or " ", style=_STYLES[line.mark]) for cell in cells)


def _is_seq(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_SEQ_DIGITS


def _seq(text: str) -> int:
    if not _is_seq(text) or int(text) < 1:
        raise typer.BadParameter(
            "a run is compared at two seqs, numbers from 1; two runs are compared without a seq",
            param_hint="SEQ",
        )
    return int(text)
