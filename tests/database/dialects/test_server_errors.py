"""An outage fails no run, and an event that cannot be stored does not stop the log."""

from collections.abc import Iterator

import psycopg
import pymysql
import pytest
from sqlalchemy import make_url

from runstore.database.dialects import Dialect, open_dialect

STATES = {
    True: ("08006", "25006", "25P03", "28P01", "3D000", "40001", "40P01", "42501", "42P01", "53100", "55P03",
           "57014", "57P01", "58030", "XX000"),
    False: ("22001", "22P05", "23502", "38000", "39004", "42601", "44000", "54000", "P0001"),
}  # fmt: skip
CODES = {
    True: (1021, 1030, 1040, 1045, 1047, 1053, 1114, 1130, 1146, 1205, 1213, 1290, 1836, 1927, 2006, 2013),
    False: (
        1048,
        1054,
        1064,
        1153,
        1264,
        1292,
        1366,
        1406,
        1644,
        1690,
        1118,
        1267,
        1305,
        1416,
        1422,
        1436,
        3140,
        3819,
        3988,
        4025,
    ),
}


@pytest.fixture
def dialect(request: pytest.FixtureRequest) -> Iterator[Dialect]:
    """The errors of a driver, without a server."""
    dialect = open_dialect(make_url(f"{request.param}://there/runs"))
    yield dialect
    dialect.close()


@pytest.mark.parametrize("dialect", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    ("passes", "state"), [(p, state) for p, states in STATES.items() for state in states]
)
def test_of_postgresql(dialect: Dialect, passes: bool, state: str) -> None:
    error = psycopg.errors.lookup(state)("something")
    assert (dialect.unavailable(error) is not None) is passes


@pytest.mark.parametrize("dialect", ["mysql"], indirect=True)
@pytest.mark.parametrize(("passes", "code"), [(passes, c) for passes, codes in CODES.items() for c in codes])
def test_of_mysql(dialect: Dialect, passes: bool, code: int) -> None:
    error = pymysql.err.error_map.get(code, pymysql.OperationalError)(code, "something")
    assert (dialect.unavailable(error) is not None) is passes


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"], indirect=True)
@pytest.mark.parametrize("error", [ValueError(), psycopg.DataError("NUL"), pymysql.DataError(1406, "long")])
def test_an_error_that_is_not_from_the_server_is_not_an_outage(dialect: Dialect, error: Exception) -> None:
    assert dialect.unavailable(error) is None
