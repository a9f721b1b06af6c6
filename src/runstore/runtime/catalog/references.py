"""Looks up `package.module:attribute` in source code: finds a typo at once, without an import."""

import ast
import difflib
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

# Names and attributes through which a module may have more names than its code defines.
DYNAMIC = frozenset({"__dict__", "__getattr__", "__path__", "exec", "globals", "modules", "setattr", "vars"})


def missing(reference: str, folder: Path | None = None) -> str | None:
    """Why a reference is wrong; None if it is right, or only an import could decide.

    Args:
        folder: where Python looks for modules first.
    """
    module, _, attribute = reference.partition(":")
    if module in sys.modules:
        return None
    searched = None if folder is None else [str(folder), *sys.path]
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for number in range(1, len(parts) + 1):
        name, parent = ".".join(parts[:number]), spec
        spec = _find(name, searched)
        if spec is None:
            if parent is not None and _is_dynamic(_source(parent)):
                return None
            where = f"neither in {folder} nor installed" if parent is None and folder else "not there"
            return f"there is no module {name!r}: it is {where}"
        searched = list(spec.submodule_search_locations or ())
    return _attribute_missing(spec, attribute.partition(".")[0])


def _attribute_missing(spec: ModuleSpec | None, name: str) -> str | None:
    try:
        source = _source(spec)
    except SyntaxError as error:
        return f"SyntaxError in {error.filename}, line {error.lineno}: {error.msg}"
    if source is None or _is_dynamic(source) or name in (names := set(_names(source))):
        return None
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{spec.origin if spec else ''} has no {name!r}{hint}"


def _find(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """A module's place, found without importing its parents."""
    if "." not in name and (found := PathFinder.find_spec(name, path)) is not None:
        return found
    for finder in sys.meta_path:
        found = finder.find_spec(name, None if "." not in name else path)
        if found is not None:
            return found
    return None


def _source(spec: ModuleSpec | None) -> ast.Module | None:
    """A module's code; None if it is not written in Python, or does not exist."""
    if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        return None
    try:
        return ast.parse(Path(spec.loader.path).read_bytes(), spec.loader.path)
    except (OSError, ValueError):
        return None


def _is_dynamic(source: ast.Module | None) -> bool:
    """Whether the module may have names that its code does not define."""
    if source is None:
        return True
    named = (
        node.id if isinstance(node, ast.Name) else getattr(node, "attr", getattr(node, "name", None))
        for node in ast.walk(source)
    )
    return any(name in DYNAMIC or name == "*" for name in named)


def _names(source: ast.Module) -> Iterator[str]:
    """All names defined, assigned or imported in the code: at least the module's attributes."""
    for node in ast.walk(source):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
