"""A fixture: a run as one file, for a test that replays it without a network."""

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from runstore.core.depth import MAX_DEPTH, is_deeper
from runstore.core.errors import ConfigError, InvalidQuery, TooLarge
from runstore.core.events import Outcome
from runstore.runtime.replay.dialogues import AddedInput, Dialogue, RecordedRun

VERSION = 1
MAX_FIXTURE_BYTES = 16 << 20  # bytes of a file, which belongs in a repository
DEPTH = MAX_DEPTH + 12  # nesting levels of the file around the values of a run


class Fixture(Struct, kw_only=True, omit_defaults=True):
    """A run that ended well, without its user, its session and its agent's definition.

    `runstore_fixture`: the version of this format. `input`, `memory`, `added`: what the agent was asked.
    `dialogues`: the answers of each agent's model, with the results of the tools that they call. `result`: of
    the run. `withheld`: messages that were redacted; a test gets a placeholder for each.
    """

    runstore_fixture: int
    run_id: str
    agent: str
    input: Any
    metadata: dict[str, Any] = {}
    memory: list[Any] = []
    added: list[AddedInput] = []
    dialogues: list[Dialogue] = []
    status: Outcome = "success"
    result: dict[str, Any] = {}
    withheld: int = 0

    @property
    def run(self) -> RecordedRun:
        """The run that it holds."""
        fields = asdict(self)
        del fields["runstore_fixture"]
        return RecordedRun(**fields)


def fixture_of(run: RecordedRun) -> Fixture:
    """The fixture of a run.

    Raises:
        InvalidQuery: it has not ended well, or no model has said anything in it.
    """
    if run.status != "success":
        ended = "has not ended" if run.status is None else f"ended with the status {run.status!r}"
        raise InvalidQuery(f"run {run.run_id} {ended}: a fixture is made of a run that ended well")
    if not any(dialogue.answers for dialogue in run.dialogues):
        raise InvalidQuery(f"run {run.run_id} has no answers of a model that a fixture could repeat")
    names = set(Fixture.__struct_fields__) & set(RecordedRun.__struct_fields__)
    return Fixture(runstore_fixture=VERSION, **{name: getattr(run, name) for name in names})


def fixture_file(fixture: Fixture) -> bytes:
    """The content of a fixture's file: JSON, indented so that its changes can be read.

    Raises:
        TooLarge: it has more than MAX_FIXTURE_BYTES.
    """
    data = msgspec.json.format(msgspec.json.encode(fixture), indent=2) + b"\n"
    if len(data) > MAX_FIXTURE_BYTES:
        raise TooLarge(
            "fixture_bytes", f"the fixture has {len(data):,} bytes; the limit is {MAX_FIXTURE_BYTES:,}"
        )
    return data


def read_fixture(path: Path) -> Fixture:
    """The fixture in a file.

    Raises:
        ConfigError: the file cannot be read, is too large, or is no fixture of this version.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FIXTURE_BYTES:
            raise ConfigError(f"{path} has {size:,} bytes; a fixture has at most {MAX_FIXTURE_BYTES:,}")
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).runstore_fixture
        if version != VERSION:
            raise ConfigError(
                f"{path} is a fixture of version {version}; this release reads version {VERSION}"
            )
        if is_deeper(data, DEPTH):
            raise ConfigError(f"{path} is nested too deep for a fixture")
        return msgspec.json.decode(data, type=Fixture)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no fixture of a run: {error}") from error


class _Version(Struct):
    runstore_fixture: int
