"""Commands with which a person takes part in a run."""

from typing import Annotated, Any

import typer

from runstore.cli.runs.options import ApiKey, Json, RunId, Url, connected


def inputs(run_id: RunId, as_json: Json = False, url: Url = None, api_key: ApiKey = None) -> None:
    """List a run's questions to a person, with their answers.

    Example: runstore runs inputs 01890a5d-ac96-774b-bcce-b302099a8057
    """
    from runstore.cli.answers import shown
    from runstore.cli.output import data_cell, print_json, print_table

    with connected(url, api_key) as client:
        found = client.inputs(run_id)
        if as_json:
            print_json(found)
        else:
            columns = ("REQUEST", "STATUS", "AGENT", "QUESTION", "ANSWER", "BY")
            print_table(
                columns,
                (
                    (each.request_id, each.status, each.agent, shown(each), data_cell(each.answer),
                     each.answered_by)
                    for each in found
                ),
            )  # fmt: skip


def answer(
    run_id: RunId,
    request_id: Annotated[
        str, typer.Argument(show_default=False, help="Request id, as printed by `runs inputs`.")
    ],
    answer: Annotated[str | None, typer.Argument(show_default=False, help="JSON, or plain text.")] = None,
    approve: Annotated[
        bool | None, typer.Option("--approve/--reject", help="Answer an approval.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="With --reject: the reason for the agent's model.")
    ] = None,
    as_json: Json = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Answer a question of a waiting run.

    Example: runstore runs answer 01890a5d-ac96-774b-bcce-b302099a8057 1.1 --approve
    """
    from runstore.cli.answers import answer_of
    from runstore.cli.output import print_json

    if (answer is None) is (approve is None) or (reason is not None and approve is not False):
        raise typer.BadParameter("give an ANSWER, or --approve, or --reject with or without --reason")
    given: Any = {"approve": approve}
    if reason is not None:
        given["reason"] = reason
    with connected(url, api_key) as client:
        if answer is not None:
            asked = (each for each in client.inputs(run_id) if each.request_id == request_id)
            given = answer_of(answer, next((each.schema for each in asked), None))
        run = client.answer(run_id, request_id, given)
    if as_json:
        print_json([run])
    else:
        typer.echo(f"{run.run_id} {run.status}")


def say(
    run_id: RunId,
    text: Annotated[str, typer.Argument(show_default=False, help="The message.")],
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Add a message to a run under way; its agent gets it before its next model call.

    Example: runstore runs say 01890a5d-ac96-774b-bcce-b302099a8057 "Only the inner planets."
    """
    with connected(url, api_key) as client:
        client.say(run_id, text)
