"""`runstore keys`: manages API keys directly in the database."""

from functools import partial
from typing import Annotated, Any, Literal

import typer

from runstore.cli.grouped import grouped
from runstore.cli.options import DatabaseOptions, seconds_of
from runstore.core.printable import escaped
from runstore.core.times import now_ms, timestamp

keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True)


@keys.command()
@grouped
def create(
    *,
    user: Annotated[str, typer.Option(help="The key's user, who owns the runs that it starts.")],
    role: Annotated[
        Literal["user", "auditor", "admin"],
        typer.Option(
            help="An auditor reads all users' runs and changes nothing; an admin may stop and delete them."
        ),
    ] = "user",
    expires: Annotated[
        str | None,
        typer.Option(
            help="How long the key is valid, such as 90d, 12h or 30m; without a limit if not given."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="A label for the key in the list.")] = "",
    database: DatabaseOptions,
) -> None:
    """Make a key and print it once; the database stores only its hash.

    Example: runstore keys create --user alice --role admin --expires 90d
    """
    from runstore.database.opening import write_to
    from runstore.store.keys import create_key, key_id_of

    now = now_ms()
    expires_at = None if expires is None else now + seconds_of("--expires", expires) * 1_000
    made = partial(create_key, user_id=user, role=role, name=name, now=now, expires_at=expires_at)
    key = write_to(database.url, made, create=True)
    typer.echo(key)
    typer.echo(f"Key {key_id_of(key)} of {escaped(user)}. Keep it: it is not shown again.", err=True)


@keys.command(name="list")
@grouped
def list_(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each key.")] = False,
    database: DatabaseOptions,
) -> None:
    """List the keys, oldest first, without their secrets.

    Example: runstore keys list --json
    """
    from runstore.database.opening import read_from
    from runstore.store.keys import list_keys

    with read_from(database.url) as connection:
        rows = [_shown(key) for key in list_keys(connection)]
    if as_json:
        import msgspec

        for row in rows:
            typer.echo(msgspec.json.encode(row))
        return
    from runstore.cli.output import print_table, time_cell

    times = {"created_at", "expires_at"}
    print_table(
        _HEADINGS,
        [[time_cell(row[name]) if name in times else row[name] for name in _COLUMNS] for row in rows],
    )


@keys.command()
@grouped
def revoke(
    *,
    key_id: Annotated[str, typer.Argument(help="The key's id, as in the list.")],
    database: DatabaseOptions,
) -> None:
    """Revoke a key. Servers refuse it within seconds and end the streams that it opened.

    Example: runstore keys revoke 3f9a1c02d4e5
    """
    from runstore.database.opening import write_to
    from runstore.store.keys import key_id_of, revoke_key

    revoked = partial(revoke_key, key_id=key_id_of(key_id) or key_id, now=now_ms())
    key = write_to(database.url, revoked)
    already = " already" if key.revoked_at is not None else ""
    typer.echo(f"Key {key.key_id} of {escaped(key.user_id)} is revoked{already}.")


_HEADINGS = ("ID", "USER", "ROLE", "STATE", "CREATED", "EXPIRES", "NAME")
_COLUMNS = ("key_id", "user_id", "role", "state", "created_at", "expires_at", "name")


def _shown(key: Any) -> dict[str, Any]:

    def time_of(at: int | None) -> str | None:
        return None if at is None else timestamp(at)

    return {
        "key_id": key.key_id, "user_id": key.user_id, "role": key.role, "state": key.state(now_ms()),
        "created_at": time_of(key.created_at), "expires_at": time_of(key.expires_at),
        "revoked_at": time_of(key.revoked_at), "name": key.name,
    }  # fmt: skip
