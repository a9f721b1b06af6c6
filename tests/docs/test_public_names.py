"""Names for a user's program are exported from `runstore`, and docs and examples take it from there."""

import inspect
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

import runstore
from runstore.client import errors as client_errors
from runstore.core import errors

ROOT = Path(__file__).parents[2]
INTERNALS = {"architecture.md", "guarantees.md", "seeds.md"}  # these name places in the source
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("**/*.md")) if page.name not in INTERNALS),
    *sorted((ROOT / "examples").glob("**/*.py")),
]
GROUP = "projections"  # also the name of the group of entry points
MODULES = {module.name for module in iter_modules(runstore.__path__)} - {"testing", GROUP}
INNER = re.compile(
    r"from runstore\.(?!testing )[\w.]+ import|import runstore\.\w"
    r"|`runstore\.(?!testing\.)[a-z_]+\.[\w.]*[A-Z]"
    rf"|`runstore\.(?:{'|'.join(sorted(MODULES))})`"
)
MADE_FOR_USERS = (
    runstore.LocalStore,
    runstore.OwnRun,
    runstore.LocalProjections,
    runstore.Projections,
    runstore.ProjectionRunner,
)  # users do not construct these


def classes_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, list):  # a Callable's parameters
        for part in hint:
            yield from classes_in(part)
    elif get_origin(hint) is not None:
        for part in get_args(hint):
            yield from classes_in(part)
    elif isinstance(hint, type):
        yield hint


def signatures(exported: Any) -> Iterator[Any]:
    """Objects whose type hints a user reads: a function; a class's fields, beginning and public methods."""
    if not inspect.isclass(exported):
        yield exported
        return
    yield exported
    for name, member in inspect.getmembers(exported, inspect.isroutine):
        if not name.startswith("_") or (name == "__init__" and exported not in MADE_FOR_USERS):
            yield member


def test_the_types_in_a_public_signature_are_public() -> None:
    public = {getattr(runstore, name) for name in runstore._EXPORTS}
    for function in chain.from_iterable(map(signatures, public)):
        if inspect.isbuiltin(function) or not hasattr(function, "__annotations__"):
            continue
        for hint in get_type_hints(inspect.unwrap(function)).values():
            for used in classes_in(hint):
                assert not used.__module__.startswith("runstore") or used in public, f"{function}: {used}"


@pytest.mark.parametrize("module", [errors, client_errors], ids=["core", "client"])
def test_every_error_is_public(module: ModuleType) -> None:
    defined = [found for found in vars(module).values() if inspect.isclass(found)]
    names = {found.__name__ for found in defined if issubclass(found, Exception)}
    assert names <= runstore._EXPORTS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_docs_and_examples_use_public_names_alone(page: Path) -> None:
    assert INNER.findall(page.read_text()) == []
