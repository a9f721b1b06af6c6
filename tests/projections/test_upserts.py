"""Statements that write many rows, into columns of any name."""

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, select

from runstore.database.database import Database
from runstore.database.upserts import add_rows, delete_rows, insert_rows, put_rows, update_rows
from tests.servers.databases import DATABASES

ODD = Table(
    "odd",
    MetaData(),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("key_", BigInteger, nullable=False),
    Column("key_id", BigInteger, nullable=False),
)


def row(*values: int) -> dict[str, int]:
    return dict(zip(("id", "key_", "key_id"), values, strict=True))


@pytest.mark.parametrize("database_url", list(DATABASES), indirect=True)
def test_a_column_may_begin_as_the_name_of_a_key(opened: Database) -> None:
    with opened.dialect.engine.begin() as connection:
        ODD.create(connection)
        try:
            insert_rows(connection, ODD, [row(1, 10, 100), row(2, 20, 200), row(3, 30, 300)])
            update_rows(connection, ODD, ["key_id", "key_"], [row(1, 11, 101)])
            put_rows(connection, ODD, [row(2, 22, 202), row(4, 44, 404)])
            add_rows(connection, ODD, [row(4, 0, 40)], ["key_id"])
            delete_rows(connection, ODD, [row(3, 0, 0), row(1, 0, 0)], key_id=300)
            found = [tuple(each) for each in connection.execute(select(ODD).order_by(ODD.c.id))]
        finally:
            ODD.drop(connection)
    assert found == [(1, 11, 101), (2, 22, 202), (4, 44, 444)]
