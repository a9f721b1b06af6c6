"""Answers of a person at a terminal to the questions of runs."""

import sys
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from runstore.core.printable import escaped

if TYPE_CHECKING:
    from runstore.client import Client, InputRecord

YES, NO = ("y", "yes"), ("n", "no")


def answer_of(text: str, schema: dict[str, Any] | None = None) -> Any:
    """An answer from the command line: JSON, or else text. A question for text takes any input as text."""
    if schema is not None and schema.get("type") == "string":
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def shown(asked: "InputRecord") -> str:
    """A question in one line."""
    more = asked.input if asked.kind == "approval" else asked.data
    text = asked.prompt if more is None else f"{asked.prompt} {msgspec.json.encode(more).decode()}"
    return escaped(" ".join(text.split()))


def prompt_for(client: "Client", run_id: str, request_id: str) -> None:
    """Ask the person at the terminal, if the question is still open, and pass the answer on.

    Without a terminal, say how to answer.
    """
    from runstore.client import ApiError

    asked = next((each for each in client.inputs(run_id) if each.request_id == request_id), None)
    if asked is None or asked.status != "open":
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        how = f"runstore runs answer {run_id} {request_id} ANSWER"
        typer.echo(f"the run waits: {shown(asked)}\nanswer it: {how}", err=True)
        return
    while True:
        answer = _read(asked)
        if answer is not None:
            try:
                client.answer(run_id, request_id, answer)
                return
            except ApiError as error:
                typer.echo(f"runstore: {escaped(str(error))}", err=True)
                if error.status != 400:  # another person was first, or the run has ended
                    return


def _read(asked: "InputRecord") -> Any:
    """One line of input as an answer; None if it cannot be read as one."""
    approval = asked.kind == "approval"
    line = typer.prompt(shown(asked) + (" [y/n]" if approval else ""), prompt_suffix=" ").strip()
    if not approval:
        return answer_of(line, asked.schema)
    if line.lower() in YES:
        return {"approve": True}
    return {"approve": False} if line.lower() in NO else None
