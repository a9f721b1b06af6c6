"""Reads the configuration file strictly: a typo prevents the start, and the error names its line."""

import difflib
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from runstore.core.codec import TOO_DEEP
from runstore.core.errors import ConfigError
from runstore.core.limits import Limits
from runstore.core.usage import MAX_MODEL
from runstore.http.security.login_function import LoginFunction
from runstore.projections.prices import Price, Prices, unquoted
from runstore.runtime.catalog.specs import (
    AGENT_NAME,
    ONLY_RUN_CODE,
    RUN_CODE,
    AgentSpec,
    ConfiguredModel,
    ModelSpec,
)
from runstore.runtime.catalog.teams import HierarchySettings
from runstore.runtime.strands.models import build_model
from runstore.settings.secrets import find_secrets
from runstore.settings.server import URLS, ServerSettings, with_urls
from runstore.settings.settings import Settings, use_folder
from runstore.settings.text import read_text

DEFAULT_FILE = Path("runstore.toml")
SECTIONS = ["server", "limits", "agents", "hierarchies", "prices"]

T = TypeVar("T")


def load_settings(path: Path | None, *, models: bool = False) -> Settings:
    """Read the configuration file; without `path`, `runstore.toml` in the working directory if it exists.

    Args:
        models: also look for the agents' modules, and build every model once, which imports its provider.

    Raises:
        ConfigError: the fault, its line, and the valid values.
    """
    if path is None:
        if not DEFAULT_FILE.exists():
            return Settings()
        path = DEFAULT_FILE
    text, tables = _read(path)
    source, folder = _Source(path, text), path.resolve().parent
    for name in tables:
        if name not in SECTIONS:
            raise source.error(name, None, f"unknown section `{name}`", SECTIONS)
    server = source.server(tables, folder)
    agents = {name: source.agent(name, table) for name, table in source.table("agents", tables).items()}
    hierarchies = source.convert("hierarchies", tables.get("hierarchies", {}), HierarchySettings)
    if models:
        source.check_imports(server, agents, hierarchies, folder)
    limits = source.convert("limits", tables.get("limits", {}), Limits)
    for name, spec in agents.items():
        source.check_timeout(name, spec, limits.max_run_timeout_s)
    locations = source.locations(tables.get("server", {}), agents, hierarchies.tools)
    prices = Prices(source.prices(tables))
    return Settings(
        server,
        agents,
        limits,
        hierarchies,
        prices=prices,
        file=path,
        secrets=tuple(find_secrets(tables)),
        folder=folder,
        locations=locations,
    )


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a configuration, and its tables."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: {TOO_DEEP.format('a value')}") from error


class _Source:
    """A configuration file, with the lines of its settings."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.splitlines()

    def table(self, name: str, tables: dict[str, Any]) -> dict[str, Any]:
        table = tables.get(name, {})
        if not isinstance(table, dict):
            raise self.error(name, None, f"`{name}` must be a table")
        return table

    def server(self, tables: dict[str, Any], folder: Path) -> ServerSettings:
        server = self.convert("server", tables.get("server", {}), ServerSettings)
        for name in URLS:
            if {name, f"{name}_file"} <= tables.get("server", {}).keys():
                raise self.error("server", f"{name}_file", f"give either `{name}` or `{name}_file`")
        return with_urls(server, folder)

    def agent(self, name: str, table: Any) -> AgentSpec:
        section = f"agents.{name}"
        if not isinstance(table, dict):
            raise self.error("agents", name, f"`{name}` must be a table: [{section}]")
        if not AGENT_NAME.fullmatch(name):
            rule = "1 to 64 letters, digits, '_', '.' or '-'"
            raise self.error(section, None, f"agent name {name!r} is not allowed: use {rule}")
        spec = self.convert(section, table, AgentSpec)
        if (name == RUN_CODE) != spec.code:
            raise self.error(section, "code", f"`code`: {ONLY_RUN_CODE}")
        return spec

    def prices(self, tables: dict[str, Any]) -> dict[str, list[Price]]:
        """`[prices."MODEL"]`, or `[[prices."MODEL"]]` for each of several prices of a model."""
        found: dict[str, list[Price]] = {}
        first: tuple[str, Price] | None = None
        for model, given in self.table("prices", tables).items():
            section = f"prices.{model}"
            if not 1 <= len(model) <= MAX_MODEL:
                raise self.error("prices", model, f"a model's id must have 1 to {MAX_MODEL} characters")
            listed = given if isinstance(given, list) else [given]
            if not listed or not all(isinstance(table, dict) for table in listed):
                raise self.error("prices", model, f"`{model}` must be a table: [{section}] or [[{section}]]")
            found[model] = []
            for entry, table in enumerate(listed):
                if (whole := unquoted(model, table)) is not None:
                    message = f'a model\'s id with a dot needs quotes: [prices."{whole}"]'
                    raise self.error(f"prices.{whole}", None, message)
                price = self.convert(section, table, Price, entry)
                if any(price.from_date == earlier.from_date for earlier in found[model]):
                    message = f"two prices of {model!r} count from the same day: give each a `from-date`"
                    raise self.error(section, "from-date", message, entry=entry)
                if first is not None and price.currency != first[1].currency:
                    other = f"{first[0]} is in {first[1].currency}; one currency for all, as costs are summed"
                    raise self.error(
                        section, "currency", f"`currency` {price.currency}, but {other}", entry=entry
                    )
                first = first or (section, price)
                found[model].append(price)
        return found

    def check_timeout(self, name: str, spec: AgentSpec, most: float) -> None:
        if spec.run_timeout_s is not None and spec.run_timeout_s > most:
            message = f"`run_timeout_s` must be at most `max_run_timeout_s`, {most:,}"
            raise self.error(f"agents.{name}", "run_timeout_s", message)

    def check_imports(
        self,
        server: ServerSettings,
        agents: Mapping[str, AgentSpec],
        hierarchies: HierarchySettings,
        folder: Path,
    ) -> None:
        """Load the login function, look for the agents' modules, and build every model."""
        if server.authenticate is not None:
            self.check_authenticate(server.authenticate, folder)
        for name, spec in agents.items():
            self.check_code(name, spec, folder)
            if isinstance(spec.source, ConfiguredModel):
                self.check_model(f"agents.{name}", spec.source)
        for name, model in hierarchies.models.items():
            self.check_model(f"hierarchies.models.{name}", model)

    def check_authenticate(self, reference: str, folder: Path) -> None:
        use_folder(folder)
        try:
            LoginFunction.load(reference)
        except ConfigError as error:
            raise self.error("server", "authenticate", str(error)) from error

    def check_code(self, name: str, spec: AgentSpec, folder: Path) -> None:
        """Check that the modules of the factory and the tools exist. Importing them could take seconds."""
        use_folder(folder)
        for field, reference in spec.references():
            package = re.split("[.:]", reference)[0]
            if package not in sys.modules and find_spec(package) is None:
                where = f"neither in {folder} nor installed"
                message = f"`{field}`: {reference!r}: there is no module {package!r}, {where}"
                raise self.error(f"agents.{name}", field, message)

    def check_model(self, section: str, spec: ModelSpec) -> None:
        if not spec.scripted:
            try:
                build_model(spec.model, spec.model_args)
            except ConfigError as error:
                field = "model_args" if spec.model_args else "model"
                raise self.error(section, field, str(error)) from error

    def convert(self, section: str, table: Any, cls: type[T], entry: int = 0) -> T:
        try:
            return msgspec.convert(table, cls)
        except msgspec.ValidationError as error:
            message = str(error).removesuffix(" - at `$`")
            field = next(
                iter(
                    re.findall(r"`\$\.([\w-]+)", message)
                    or re.findall(r"field `([\w-]+)`|^`([\w-]+)`", message)
                ),
                "",
            )
            name = "".join(field)
            known = list(cls.__struct_encode_fields__) if "unknown field" in message else []  # type: ignore[attr-defined]
            raise self.error(section, name or None, message, known, entry=entry) from error

    def error(
        self,
        section: str,
        field: str | None,
        message: str,
        known: list[str] | None = None,
        *,
        entry: int = 0,
    ) -> ConfigError:
        """The error with its location and, for an unknown name, the closest known one."""
        hint = ""
        if known:
            near = difflib.get_close_matches(field or section, known, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else f"; known: {', '.join(known)}"
        return ConfigError(f"{self.location(section, field, entry)}: {message}{hint}")

    def locations(self, server: Iterable[str], agents: Iterable[str], tools: Iterable[str]) -> dict[str, str]:
        """Where the settings stand whose faults come to light later, by their names."""
        locations = {name: self.location("server", name) for name in server}
        locations["code"] = self.location(f"agents.{RUN_CODE}", "code")
        for name in agents:
            for field in ("factory", "tools", "at_most_once", "approve"):
                locations[f"agents.{name}.{field}"] = self.location(f"agents.{name}", field)
        for tool in tools:
            locations[f"hierarchies.tools.{tool}"] = self.location("hierarchies.tools", tool)
        return locations

    def location(self, section: str, field: str | None, entry: int = 0) -> str:
        return f"{self._path}:{self._line(section, field, entry)}: [{section}]"

    def _line(self, section: str, field: str | None, entry: int) -> int:
        """The line of a field, or of its section's header if the field has no line of its own.

        Args:
            entry: number of the section among those of the same name, from 0.
        """
        header, found = 1, False
        quoted = re.compile(r"""["'\s]""")
        for number, line in enumerate(self._lines, 1):
            text = line.strip()
            if text.startswith("["):
                name = quoted.sub("", text)
                found = name.startswith((f"[{section}]", f"[[{section}]]")) and entry == 0
                entry -= name.startswith(f"[[{section}]]")
                header = number if found else header
            elif found and field and quoted.sub("", text).startswith(f"{field}="):
                return number
        return header
