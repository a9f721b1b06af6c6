"""The documents and the code agree: everything that a user can meet is described, and nothing else."""

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeGuard

import click
import msgspec
import pytest
import typer
from msgspec import NODEFAULT, Struct

import runstore
from runstore import AgentSpec
from runstore.cli.main import app as cli
from runstore.core.codec import MAX_EVENT_BYTES, TailEvent, decode
from runstore.core.errors import RunstoreError
from runstore.core.events import EVENT_CLASSES, Custom
from runstore.core.hierarchy import Hierarchy, Team, Worker
from runstore.core.run import STATUSES
from runstore.http.app import SURFACES
from runstore.http.errors import STATUS
from runstore.http.executor.hierarchies import HierarchyBody, ListHierarchiesBody
from runstore.http.executor.runs import CancelBody, FollowBody, ListRunsBody, RunBody, StartTeamBody
from runstore.http.native.agents import CodeBody, CodeStreamBody, StartBody, StreamBody
from runstore.http.native.events import AppendBody, ExternalEvent
from runstore.http.native.records import RunRecord
from runstore.http.native.runs import StopBody
from runstore.http.native.tickets import TicketBody
from runstore.http.openai.objects import ChatBody, StreamOptions
from runstore.http.openapi import document
from runstore.http.streaming.frames import RETRY_MS, frame
from runstore.runtime.catalog.teams import HierarchySettings
from runstore.runtime.supervision.run_table import LEGAL
from runstore.settings import ServerSettings, load_settings
from tests.kit.pages import (
    HEADING,
    PAGES,
    ROOT,
    SOURCE,
    anchors,
    assignments,
    calls,
    fenced,
    page,
    prose,
    rows,
    section,
    sources,
    words,
)
from tests.servers.shared import SHARED
from tests.soak import SOAK_VARIABLE

PATHS = document(SURFACES, needs_login=True)["paths"]
# Errors of requests that find no route, and those that no client meets.
OF_NO_ROUTE = {
    "append_refused", "bad_request", "http_error", "lease_lost", "malformed_request", "method_not_allowed",
    "not_found", "request_timeout", "unheard",
}  # fmt: skip
GUARANTEES = [*(f"G{number}" for number in range(1, 14)), "G15"]

TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"(?<!!)\[[^]\[]*\]\(([^)\s]+)\)")

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
every_page_on_the_source = pytest.mark.parametrize(
    "path",
    [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs/internals").glob("*.md"))],
    ids=lambda path: path.name,
)


# ---- events ----

every_type = pytest.mark.parametrize("type", EVENT_CLASSES)


@every_type
def test_every_event_type_has_a_section_with_its_fields(type: str) -> None:
    described = {row[0]: row[1] for row in rows(section("docs/reference/events.md", f"`{type}`"))}
    for field in msgspec.structs.fields(EVENT_CLASSES[type]):
        assert f"`{field.name}`" in described, (
            f"docs/reference/events.md: {type} lacks its field {field.name}"
        )
        optional = (field.default, field.default_factory) != (NODEFAULT, NODEFAULT)
        said = "default" in described[f"`{field.name}`"]
        assert said is optional, f"docs/reference/events.md: {type}.{field.name} may be left out: {optional}"


@every_type
def test_every_event_type_has_an_example_that_is_such_a_frame(type: str) -> None:
    examples = fenced(section("docs/reference/events.md", f"`{type}`"), "")
    assert examples, f"docs/reference/events.md: no example of {type}"
    assert [frame_of(example) for example in examples] == [example.strip() for example in examples]


def test_the_examples_of_custom_events_are_frames() -> None:
    examples = fenced(section("docs/reference/events.md", "Custom events"), "")
    assert [frame_of(example) for example in examples] == [example.strip() for example in examples]


def test_the_list_of_event_types_is_that_of_the_code() -> None:
    overview = section("docs/reference/events.md", "Types").partition("\n### ")[0]
    listed = {name for row in rows(overview) for name in words(row[0])}
    assert {name for name in listed if "." in name} == {*EVENT_CLASSES}
    assert "`custom.*`" in overview


def test_the_numbers_of_the_wire_are_the_codes() -> None:
    assert f"`retry: {RETRY_MS}`" in page("docs/reference/events.md")
    assert f"{MAX_EVENT_BYTES:,} bytes" in page("docs/reference/events.md")


def frame_of(example: str) -> str:
    """The frame that the server makes of the event in an example."""
    event = msgspec.json.decode(re.findall(r"^data: (.*)$", example, re.M)[0])
    data = msgspec.json.encode(event["data"])
    known = decode(event["type"], 1, data)
    if not isinstance(known, Custom):
        assert event["data"].keys() <= set(known.__struct_fields__), example
    at = round(msgspec.convert(event["at"], datetime).timestamp() * 1000)
    made = TailEvent(event["run_id"], event["seq"], event["type"], False, at, data)
    return frame(made).decode().strip()


# ---- HTTP ----


ROUTES = [(method.upper(), path) for path, methods in PATHS.items() for method in methods]


def test_the_routes_of_the_docs_are_those_of_the_code() -> None:
    assert set(re.findall(r"^### `([A-Z]+) (\S+)`$", page("docs/reference/http.md"), re.M)) == set(ROUTES)
    assert set(re.findall(r"^\| \[`([A-Z]+) (\S+)`\]", page("docs/reference/http.md"), re.M)) == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_query_parameter_is_described(method: str, path: str) -> None:
    named = {
        name
        for row in rows(section("docs/reference/http.md", f"`{method} {path}`"))
        for name in words(row[0])
    }
    operation = PATHS[path][method.lower()]
    parameters = {each["name"] for each in operation["parameters"] if each["in"] == "query"}
    parameters |= {name for scheme in operation["security"] for name in scheme if name == "ticket"}
    assert parameters <= named, f"docs/reference/http.md: {method} {path} lacks {parameters - named}"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_the_openapi_document_has_the_parameters_of_every_path(method: str, path: str) -> None:
    parameters = PATHS[path][method.lower()]["parameters"]
    in_path = [each["name"] for each in parameters if each["in"] == "path"]
    assert in_path == re.findall(r"{(\w+)}", path)


def test_the_errors_of_the_openapi_document_are_those_of_the_docs() -> None:
    said = {
        code: row[1] for row in rows(section("docs/reference/http.md", "Errors")) for code in words(row[0])
    }
    described = {(code, status) for status, code in openapi_errors()}
    assert described <= {(code, status) for code, text in said.items() for status in text.split(", ")}
    assert said.keys() - {code for code, _ in described} == OF_NO_ROUTE


def openapi_errors() -> Iterator[tuple[str, str]]:
    """Every status and code that the document has."""
    for methods in PATHS.values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    if "properties" in schema:  # else an agent may have a code of its own
                        for code in schema["properties"]["error"]["properties"]["code"]["enum"]:
                            yield status, code


@pytest.mark.parametrize(
    ("body", "route"),
    [
        (CodeBody, "POST /agents/run-code/start"),
        (CodeStreamBody, "POST /agents/run-code/stream"),
        (StartBody, "POST /agents/{agent}/start"),
        (StreamBody, "POST /agents/{agent}/stream"),
        (ChatBody, "POST /v1/chat/completions"),
        (StreamOptions, "POST /v1/chat/completions"),
        (StopBody, "POST /runs/{run_id}/stop"),
        (AppendBody, "POST /runs/{run_id}/events"),
        (ExternalEvent, "POST /runs/{run_id}/events"),
        (TicketBody, "POST /runs/{run_id}/ticket"),
        (Hierarchy, "POST /api/executor/v1/hierarchies/create"),
        (Team, "POST /api/executor/v1/hierarchies/create"),
        (Worker, "POST /api/executor/v1/hierarchies/create"),
        (ListHierarchiesBody, "POST /api/executor/v1/hierarchies/list"),
        (HierarchyBody, "POST /api/executor/v1/hierarchies/get"),
        (HierarchyBody, "POST /api/executor/v1/hierarchies/delete"),
        (StartTeamBody, "POST /api/executor/v1/runs/start"),
        (FollowBody, "POST /api/executor/v1/runs/stream"),
        (CancelBody, "POST /api/executor/v1/runs/cancel"),
        (RunBody, "POST /api/executor/v1/runs/get"),
        (ListRunsBody, "POST /api/executor/v1/runs/list"),
    ],
)
def test_every_field_of_a_body_is_described(body: type[Struct], route: str) -> None:
    text = section("docs/reference/http.md", f"`{route}`")
    inherited = getattr(body.__base__, "__struct_fields__", ())
    for field in set(body.__struct_fields__).difference(inherited):
        assert f"`{field}`" in text or f'"{field}"' in text, f"docs/reference/http.md: {route} lacks {field}"


def test_the_run_record_of_the_docs_is_that_of_the_code() -> None:
    text = section("docs/reference/http.md", "The run record")
    example = msgspec.json.decode(fenced(text, "json")[0])
    msgspec.convert(example, RunRecord)
    named = [name for row in rows(text) for name in words(row[0])]
    assert sorted(example) == sorted(named) == sorted(RunRecord.__struct_fields__)
    assert set(STATUSES) <= set(words(text))


def test_every_error_code_is_described() -> None:
    tables = rows(section("docs/reference/http.md", "Errors")) + rows(
        section("docs/reference/events.md", "`lifecycle.failed`")
    )
    described = {code for row in tables for code in words(row[0])}
    described |= set(words(section("docs/reference/http.md", "Errors")))
    assert not error_codes() - described, "neither in docs/reference/http.md nor in docs/reference/events.md"


def test_every_error_code_of_the_docs_exists() -> None:
    answers = {code for row in rows(section("docs/reference/http.md", "Errors")) for code in words(row[0])}
    assert answers <= {node.value for _, tree in sources() for node in ast.walk(tree) if is_text(node)}


def is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_error_has_the_status_that_the_docs_say() -> None:
    said = {
        code: row[1] for row in rows(section("docs/reference/http.md", "Errors")) for code in words(row[0])
    }
    for cls, status in STATUS.items():
        assert str(status) in said[cls.code].split(", "), cls.code


def error_codes() -> set[str]:
    """Every code that an answer, a run's record or the command line can carry."""
    given: list[ast.expr] = [value for _, name, value in assignments() if name == "code"]
    for _, name, value in assignments():
        if name.endswith("CODES") and isinstance(value, ast.Dict):
            given += value.values
    for call in calls():
        given += [keyword.value for keyword in call.keywords if keyword.arg == "code"]
        given += call.args[1:2] if getattr(call.func, "id", "") == "error_response" else []
    codes = {each.value for each in given if isinstance(each, ast.Constant)}
    return {code for code in codes if isinstance(code, str)} | {
        cls.code for cls in errors_below(RunstoreError)
    }


def errors_below(cls: type[RunstoreError]) -> Iterator[type[RunstoreError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from errors_below(below)


# ---- settings, commands, the server's own log ----


@pytest.mark.parametrize(
    ("cls", "title", "column"),
    [(ServerSettings, "Settings", 3), (AgentSpec, "Agents", 1), (HierarchySettings, "Hierarchies", 1)],
)
def test_every_setting_is_described_with_its_default(cls: type[Struct], title: str, column: int) -> None:
    described = {row[0].strip("`"): row for row in rows(section("docs/reference/operating.md", title))}
    for field in msgspec.structs.fields(cls):
        assert field.name in described, f"docs/reference/operating.md lacks {field.name}"
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        said = described[field.name][column].strip("`")
        assert said == ("—" if default is None else msgspec.json.encode(default).decode()), field.name


@cache
def commands() -> dict[str, click.Command]:
    def below(name: str, command: Any) -> Iterator[tuple[str, click.Command]]:
        children = getattr(command, "commands", {})
        if not children:
            yield name, command
        for child in children.values():
            yield from below(f"{name} {child.name}", child)

    return dict(below("runstore", typer.main.get_command(cli)))


@pytest.mark.parametrize("name", commands())
def test_every_command_is_described_with_its_options_and_variables(name: str) -> None:
    assert f"`{name}`" in section("docs/reference/operating.md", "The commands")
    for parameter in commands()[name].params:
        for option in parameter.opts if parameter.name != "help" else ():
            assert option in page("docs/reference/operating.md"), (
                f"docs/reference/operating.md lacks {name} {option}"
            )
        assert not parameter.envvar or f"`{parameter.envvar}`" in page("docs/reference/operating.md"), (
            parameter.envvar
        )


@every_page
def test_commands_and_variables_of_the_docs_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = {str(p.envvar) for command in commands().values() for p in command.params if p.envvar}
    known |= {SOAK_VARIABLE, *(variable for variable, _ in SHARED.values())}  # of the tests
    assert set(re.findall(r"\bRUNSTORE_[A-Z_]+\b", text)) <= known
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.M))
    assert set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", text, re.M)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
    for line in "".join(fenced(text, "sh")).splitlines():
        called = line.removeprefix(".venv/bin/").split()
        if called[:1] == ["runstore"]:
            name = next((n for n in (" ".join(called[:3]), " ".join(called[:2])) if n in commands()), None)
            assert name, line
            options = {o for p in commands()[name].params for o in (*p.opts, *p.secondary_opts)}
            assert {word for word in called if word.startswith("--")} <= options, line


def test_the_events_of_the_servers_log_are_described() -> None:
    levels = ("log.debug", "log.info", "log.warning", "log.error", "log.exception")
    written = {ast.unparse(call.args[0]).strip("'") for call in calls() if ast.unparse(call.func) in levels}
    described = {
        name for row in rows(section("docs/reference/observability.md", "Logs")) for name in words(row[0])
    }
    assert described == written


# ---- limits ----


def test_the_fixed_limits_are_described_with_their_values() -> None:
    table = [row for row in rows(fixed_limits()) if row[2].startswith("`")]
    described = {(constant.strip("`"), number(value)) for _, value, constant in table}
    assert described
    assert described <= set(limits())


def fixed_limits() -> str:
    return section("docs/reference/operating.md", "Limits").split("### Fixed limits")[1]


def limits() -> Iterator[tuple[str, float]]:
    """The name and value of every public constant of a module that is a number."""
    for path, name, _ in assignments():
        if re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            value = getattr(importlib.import_module(".".join(["runstore", *parts])), name, None)
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield name, float(value)


def number(text: str) -> float:
    return float(text.split()[0].replace(",", ""))


# ---- architecture ----


def test_the_layers_of_the_docs_are_those_of_the_contract() -> None:
    contracts = tomllib.loads(page("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    [described] = fenced(section("docs/internals/architecture.md", "Allowed imports"), "")
    assert described.splitlines() == [layer.strip("()") for layer in layers]


# ---- guarantees ----


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_every_guarantee_names_tests_that_hold_it(guarantee: str) -> None:
    titles = [title for _, title in HEADING.findall(page("docs/internals/guarantees.md"))]
    [title] = [title for title in titles if title.startswith(f"{guarantee}:")]
    named = TEST_NAME.findall(section("docs/internals/guarantees.md", title))
    assert named, f"docs/internals/guarantees.md: {guarantee} names no test"
    assert not all(name in slow_of(ROOT / file) for file, name in named), "`make test` would not hold it"


@cache
def slow_of(path: Path) -> set[str]:
    """The test functions of a file that `make test` leaves out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if any(ast.unparse(node) == "pytestmark = pytest.mark.slow" for node in tree.body):
        return claims_of(path)
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f.name for f in functions if "pytest.mark.slow" in map(ast.unparse, f.decorator_list)}


@every_page
def test_every_test_that_the_docs_name_exists(path: Path) -> None:
    for file, name in TEST_NAME.findall(path.read_text(encoding="utf-8")):
        assert name in claims_of(ROOT / file), f"there is no {name} in {file}"


@cache
def claims_of(path: Path) -> set[str]:
    """The test functions of a file, and the test classes that an assignment makes (state machines)."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    functions = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    assigned = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return {name for name in functions | assigned if name.lower().startswith("test")}


# ---- the pages themselves ----


@every_page
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        if not target.startswith(("http://", "https://")):
            file, _, anchor = target.partition("#")
            found = path.parent / file if file else path
            assert found.exists(), target
            assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target


@every_page
def test_every_page_is_in_the_index(path: Path) -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / target).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))}
    assert path in {index, *listed}


@every_page
def test_the_lines_of_the_text_are_under_120_characters(path: Path) -> None:
    """Tables and blocks of code cannot be wrapped, and neither can a single word."""
    lines = prose(path.read_text(encoding="utf-8")).splitlines()
    too_long = [line for line in lines if len(line) >= 120 and not line.startswith("|") and " " in line[2:]]
    assert too_long == []


@every_page
def test_every_file_of_ours_that_the_docs_name_exists(path: Path) -> None:
    for name in re.findall(r"`([\w.-]+/[\w/.-]+\.(?:py|md|toml))`", path.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file() or (SOURCE / name).is_file(), name


@every_page_on_the_source
def test_a_file_of_the_source_is_named_with_its_folder(path: Path) -> None:
    for name in re.findall(r"`([\w*/.-]+\.py)`", path.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file() or (SOURCE / name).is_file(), name


@every_page
def test_blocks_of_code_can_be_read(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for block in fenced(text, "json"):
        msgspec.json.decode(block)
    for block in fenced(text, "python"):
        compile(block, path.name, "exec")
    for block in fenced(text, "toml"):
        file = tmp_path / "runstore.toml"
        file.write_text(block, encoding="utf-8")
        load_settings(file)


def test_the_changelog_has_this_version() -> None:
    assert re.search(rf"^## {re.escape(runstore.__version__)}\b", page("CHANGELOG.md"), re.M)
    assert f'version = "{runstore.__version__}"' in page("pyproject.toml")


def test_the_rooms_of_the_architecture_page_are_those_of_the_code() -> None:
    page = (ROOT / "docs/internals/architecture.md").read_text()
    block = page.split("```\nsrc/runstore/\n")[1].split("```")[0]
    named = [line.split()[0].rstrip("/") for line in block.splitlines()]
    package = ROOT / "src/runstore"
    assert sorted(named) == sorted(
        path.name
        for path in package.iterdir()
        if not path.name.startswith("__") and (path.is_dir() or path.suffix == ".py")
    )


def test_the_states_of_a_run_are_those_of_the_table() -> None:
    table = rows(section("docs/internals/architecture.md", "The runs of a process"))[1:]
    described = {
        state.strip("`"): {*words(following)} | ({"NoneType"} if "gone" in following else set())
        for state, _, following in table
    }
    legal = {state.__name__: {each.__name__ for each in following} for state, following in LEGAL.items()}
    del legal[NoneType.__name__]
    assert described == legal


def test_every_thread_of_a_server_is_described() -> None:
    named = re.compile(r'"(runstore-[a-z-]+[a-z])"')
    found = {
        name for path in SOURCE.rglob("*.py") for name in named.findall(path.read_text(encoding="utf-8"))
    }
    assert found - {*words(section("docs/internals/architecture.md", "Threads"))} == set()
