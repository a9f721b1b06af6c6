"""The documents and the code say the same: whatever a user can meet is described, and nothing else is."""

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast

import click
import msgspec
import pytest
import typer
from msgspec import NODEFAULT, Struct
from starlette.routing import Route

import runstore
from runstore.cli import app as cli
from runstore.core import errors
from runstore.core.codec import MAX_EVENT_BYTES, RETRY_MS, decode, frame
from runstore.core.events import EVENT_CLASSES, Custom
from runstore.core.run import STATUSES
from runstore.http.app import build_http
from runstore.http.errors import STATUS
from runstore.http.runs import RunRecord
from runstore.runtime.agents import AgentSpec
from runstore.settings import ServerSettings, load_settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "runstore"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(ROOT.glob("docs/*.md"))
GUARANTEES = [f"G{number}" for number in range(1, 13)]
NOT_LIMITS = {"ENCODER_VERSION", "EXIT_CONFIG", "FIRST", "LAST"}  # numbers that bound nothing
OUT_OF_DOCS = {"demo.py", "scripted_input.py", "scripted_text.py"}  # files whose limits concern no user's run

TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"(?<!!)\[[^]\[]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
HEADING = re.compile(r"^#+ (.*)$", re.M)


@cache
def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", page(name), re.M | re.S)
    assert found, f"{name} has no heading {heading!r}"
    level = len(found[1])
    rest = re.search(rf"\A.*?(?=^#{{1,{level}}} |\Z)", page(name)[found.start(2) :], re.M | re.S)
    assert rest
    return rest[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables' rows, without their code marks around a whole cell."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("|--")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def fenced(text: str, language: str) -> list[str]:
    return [block for kind, block in FENCE.findall(text) if kind == language]


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def code_name(name: str) -> str:
    return f"`{name}`"


# ---- events ----


@pytest.mark.parametrize("type", EVENT_CLASSES)
def test_every_event_type_has_a_section_with_its_fields(type: str) -> None:
    text = section("docs/events.md", code_name(type))
    documented = {row[0] for row in rows(text)}
    for field in EVENT_CLASSES[type].__struct_fields__:
        assert code_name(field) in documented, f"docs/events.md: {type} does not name its field {field}"


@pytest.mark.parametrize("type", EVENT_CLASSES)
def test_fields_that_may_be_left_out_are_told_from_those_that_may_not(type: str) -> None:
    documented = {row[0]: row[1] for row in rows(section("docs/events.md", code_name(type)))}
    for field in msgspec.structs.fields(EVENT_CLASSES[type]):
        optional = (field.default, field.default_factory) != (NODEFAULT, NODEFAULT)
        assert ("default" in documented[code_name(field.name)]) is optional, f"{type}: {field.name}"


def test_the_list_of_event_types_is_that_of_the_code() -> None:
    listed = {row[0].partition("](")[0].strip("[`") for row in rows(section("docs/events.md", "Types"))}
    families = "|".join(sorted({type.partition(".")[0] for type in EVENT_CLASSES}))
    named = {name for name in listed if re.fullmatch(rf"(?:{families})\.\w+", name)}
    assert named == set(EVENT_CLASSES)


@pytest.mark.parametrize("type", EVENT_CLASSES)
def test_every_event_type_has_an_example_that_is_such_a_frame(type: str) -> None:
    examples = fenced(section("docs/events.md", code_name(type)), "")
    assert examples, f"docs/events.md: no example frame of {type}"
    for example in examples:
        assert frame_of(example) == example.strip(), example


def test_the_examples_of_custom_events_are_frames() -> None:
    for example in fenced(section("docs/events.md", "Custom events"), ""):
        assert frame_of(example) == example.strip()


def test_the_time_to_reconnect_is_the_codes() -> None:
    for name in ("docs/events.md", "docs/http.md"):
        assert f"`retry: {RETRY_MS}`" in page(name)


def frame_of(example: str) -> str:
    """The frame that the server makes of an example's event."""
    event = msgspec.json.decode(re.findall(r"^data: (.*)$", example, re.M)[0])
    decoded = decode(event["type"], 1, data := msgspec.json.encode(event["data"]))
    assert isinstance(decoded, Custom) or type(decoded) is EVENT_CLASSES[event["type"]]
    unknown = event["data"].keys() - set(decoded.__struct_fields__) if not isinstance(decoded, Custom) else set()
    assert not unknown, f"{event['type']} has no {unknown}"
    at = int(msgspec.convert(event["at"], cast(Any, __import__("datetime").datetime)).timestamp() * 1000 + 0.5)
    return frame(event["run_id"].encode(), event["seq"], event["type"].encode(), at, data).decode().strip()


# ---- HTTP ----

ROUTES = [
    (method, route.path)
    for route in build_http(cast(Any, None), not_ready=lambda: None).routes
    if isinstance(route, Route)
    for method in sorted((route.methods or set()) - {"HEAD"})
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_has_a_section(method: str, path: str) -> None:
    assert section("docs/http.md", code_name(f"{method} {path}"))


def test_every_route_of_the_docs_exists() -> None:
    documented = re.findall(r"^### `([A-Z]+) (\S+)`$", page("docs/http.md"), re.M)
    assert set(documented) == set(ROUTES)
    listed = re.findall(r"^\| \[`([A-Z]+) (\S+)`\]", page("docs/http.md"), re.M)
    assert set(listed) == set(ROUTES)


def test_every_query_parameter_is_in_its_routes_section() -> None:
    for route in build_http(cast(Any, None), not_ready=lambda: None).routes:
        assert isinstance(route, Route)
        for parameter in query_parameters(route.endpoint):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                text = section("docs/http.md", code_name(f"{method} {route.path}"))
                named = {name for row in rows(text) for name in re.findall(r"`([\w-]+)`", row[0])}
                assert parameter in named, f"docs/http.md: {method} {route.path} does not name {parameter}"


def query_parameters(endpoint: Callable[..., Any]) -> list[str]:
    """What a handler lets `check_parameters` pass."""
    module = ast.parse(Path(importlib.import_module(endpoint.__module__).__file__ or "").read_text())
    cls, _, method = endpoint.__qualname__.partition(".")
    found: list[str] = []
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and node.name == cls:
            functions = [n for n in node.body if isinstance(n, ast.AsyncFunctionDef) and n.name == method]
            for call in (n for f in functions for n in ast.walk(f) if isinstance(n, ast.Call)):
                if isinstance(call.func, ast.Name) and call.func.id == "check_parameters":
                    found += ast.literal_eval(call.args[1])
    return found


def test_the_run_record_of_the_docs_has_the_codes_fields() -> None:
    text = section("docs/http.md", "The run record")
    example = msgspec.json.decode(fenced(text, "json")[0])
    assert list(example) == list(RunRecord.__struct_fields__)
    msgspec.convert(example, RunRecord)
    named = [name for row in rows(text) for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(RunRecord.__struct_fields__)
    assert all(code_name(status) in text for status in STATUSES)


def test_every_error_code_is_in_the_docs() -> None:
    described = {code for row in rows(page("docs/http.md") + page("docs/events.md")) for code in code_marks(row[0])}
    described |= set(code_marks(section("docs/http.md", "Errors")))
    missing = error_codes() - described
    assert not missing, f"docs/http.md (or events.md, of failed runs) does not describe {sorted(missing)}"


def test_every_error_class_has_its_status_in_the_docs() -> None:
    statuses = {code: row[1] for row in rows(section("docs/http.md", "Errors")) for code in code_marks(row[0])}
    for cls, status in STATUS.items():
        assert statuses[cls.code] == str(status), cls.code


def error_codes() -> set[str]:
    """Every code that an answer, a run or the command line can carry."""
    codes = {cls.code for cls in error_classes(errors.RunstoreError)}
    for _path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                given = [k.value for k in node.keywords if k.arg == "code"]
                if isinstance(node.func, ast.Name) and node.func.id == "error_response":
                    given += node.args[1:2]
                codes |= {g.value for g in given if isinstance(g, ast.Constant) and isinstance(g.value, str)}
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and target.id.endswith("CODES"):
                    codes |= {str(v.value) for v in node.value.values if isinstance(v, ast.Constant)}
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                if node.targets[0].id == "code" and isinstance(node.value, ast.Constant):
                    codes.add(str(node.value.value))
    return codes


def error_classes(cls: type[errors.RunstoreError]) -> Iterator[type[errors.RunstoreError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from error_classes(below)


def code_marks(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


# ---- settings and command line ----


@pytest.mark.parametrize(
    ("cls", "heading", "column"), [(ServerSettings, "Settings", 3), (AgentSpec, "Agents", 1)]
)
def test_every_setting_is_described_with_its_default(cls: type[Struct], heading: str, column: int) -> None:
    table = {row[0].strip("`"): row for row in rows(section("docs/operating.md", heading))}
    for field in msgspec.structs.fields(cls):
        assert field.name in table, f"docs/operating.md does not describe {field.name}"
        default = field.default if field.default_factory is NODEFAULT else field.default_factory()
        said = table[field.name][column].strip("`")
        assert said == toml_of(default), f"docs/operating.md: the default of {field.name} is {toml_of(default)}"


def toml_of(value: Any) -> str:
    if value is NODEFAULT or value is None:
        return "—"
    if isinstance(value, dict | list | tuple | frozenset | set):
        assert not value
        return "{}" if isinstance(value, dict) else "[]"
    return msgspec.json.encode(value).decode()


def commands() -> Iterator[tuple[str, click.Command]]:
    def below(name: str, command: Any) -> Iterator[tuple[str, click.Command]]:
        if hasattr(command, "commands"):
            for child in command.commands.values():
                yield from below(f"{name} {child.name}", child)
        else:
            yield name, command

    yield from below("runstore", typer.main.get_command(cli))


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_described_with_its_options(name: str, command: click.Command) -> None:
    assert code_name(name) in section("docs/operating.md", "The commands")
    for parameter in command.params:
        if parameter.name == "help":
            continue
        for option in parameter.opts:
            assert f"{option}" in page("docs/operating.md"), f"{name} {option}"
        variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
        for variable in variables:
            assert code_name(variable) in page("docs/operating.md"), f"{name}: {variable}"


def test_every_environment_variable_of_the_docs_exists() -> None:
    known = {str(p.envvar) for _, command in commands() for p in command.params if p.envvar}
    for path in PAGES:
        named = set(re.findall(r"\bRUNSTORE_[A-Z_]+\b", path.read_text(encoding="utf-8")))
        assert named <= known, f"{path.name}: {named - known}"


def test_every_command_of_the_docs_exists_with_its_options() -> None:
    known = {name: command for name, command in commands()}
    for path in PAGES:
        for line in "".join(fenced(path.read_text(encoding="utf-8"), "sh")).splitlines():
            words = line.removeprefix(".venv/bin/").split()
            if words[:1] != ["runstore"]:
                continue
            name = next((n for n in (" ".join(words[:3]), " ".join(words[:2])) if n in known), None)
            assert name, f"{path.name}: {line}"
            options = {option for parameter in known[name].params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, f"{path.name}: {line}"


def test_every_make_target_of_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", page("Makefile"), re.M))
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"`make ([a-z]+)", text)) | set(re.findall(r"^make ([a-z]+)", text, re.M))
        assert named <= targets, f"{path.name}: {named - targets}"


def test_every_event_of_the_servers_own_log_is_described() -> None:
    described = {name for row in rows(section("docs/operating.md", "Logs")) for name in code_marks(row[0])}
    written = set()
    for _path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                if isinstance(node.func.value, ast.Name) and node.func.value.id == "log":
                    if node.func.attr in ("debug", "info", "warning", "error", "exception"):
                        first = node.args[0]
                        assert isinstance(first, ast.Constant), "an event of the log is a fixed word"
                        written.add(first.value)
    assert written == described


# ---- limits ----


def limits() -> Iterator[tuple[str, str, float]]:
    """Every public constant of the code that is a number: its room, its name, its value."""
    for path, tree in sources():
        parts = path.relative_to(SOURCE).with_suffix("").parts
        targets = [
            target
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        ]
        names = [
            name.id
            for target in targets
            for name in (target.elts if isinstance(target, ast.Tuple) else [target])
            if isinstance(name, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]*", name.id)
        ]
        if path.name not in OUT_OF_DOCS and (wanted := [name for name in names if name not in NOT_LIMITS]):
            module = importlib.import_module(".".join(["runstore", *parts]))
            for name in wanted:
                if isinstance(value := getattr(module, name), int | float) and not isinstance(value, bool):
                    yield (parts[0], name, float(value))


def test_every_limit_is_in_the_docs_with_its_value() -> None:
    table = [row for row in rows(section("docs/architecture.md", "Limits")) if row[1].startswith("`")]
    documented = {(room.strip("`"), name.strip("`"), number(value)) for room, name, value, _ in table}
    assert documented == set(limits())


def number(text: str) -> float:
    found = re.match(r"[\d,]+(?:\.\d+)?", text)
    assert found, text
    return float(found[0].replace(",", ""))


def test_the_largest_event_is_the_same_in_every_page() -> None:
    assert f"{MAX_EVENT_BYTES:,} bytes" in page("docs/events.md")


# ---- guarantees ----


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_every_guarantee_names_tests_that_hold_it(guarantee: str) -> None:
    headings = [h for h in HEADING.findall(page("docs/guarantees.md")) if h.startswith(f"{guarantee}:")]
    assert len(headings) == 1
    assert TEST_NAME.findall(section("docs/guarantees.md", headings[0]))


def test_every_test_that_the_docs_name_exists() -> None:
    for path in PAGES:
        for file, name in TEST_NAME.findall(path.read_text(encoding="utf-8")):
            assert (ROOT / file).is_file(), f"{path.name}: {file}"
            assert name in functions_of(ROOT / file), f"{path.name}: there is no {name} in {file}"


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)} | {
        # A Hypothesis state machine becomes a test by an assignment.
        t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }  # fmt: skip


# ---- the pages themselves ----


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            headings = [slug(h) for h in HEADING.findall(FENCE.sub("", found.read_text(encoding="utf-8")))]
            assert anchor in headings, f"{path.name}: {target}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_blocks_of_code_can_be_read(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("```") % 2 == 0
    for block in fenced(text, "json"):
        msgspec.json.decode(block)
    for block in fenced(text, "python"):
        compile(block, path.name, "exec")
    for block in fenced(text, "toml"):
        file = tmp_path / "runstore.toml"
        file.write_text(block, encoding="utf-8")
        load_settings(file)


def test_the_changelog_has_this_version() -> None:
    assert re.search(rf"^## \[?{re.escape(runstore.__version__)}\]?", page("CHANGELOG.md"), re.M)
    assert f'version = "{runstore.__version__}"' in page("pyproject.toml")


def test_the_docs_name_no_file_of_the_source_that_is_not_there() -> None:
    for path in PAGES:
        for name in re.findall(r"`((?:src/runstore/|tests/|docs/)?[\w/]+\.py)`", path.read_text(encoding="utf-8")):
            places = [ROOT / name, SOURCE / name, ROOT / "tests" / name]
            known = any(place.exists() for place in places) or list(SOURCE.rglob(name))
            assert known, f"{path.name}: {name}"
