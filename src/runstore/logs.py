"""Log lines as logfmt or JSON, with the event first and the run's id in every line about a run.

A run's task binds the id to its context. So every line logged there has it: ours, those of the agent's own
code, and those of the libraries that it calls.
"""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from queue import Full, Queue
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from runstore.core.errors import ConfigError
from runstore.core.masking import without_keys
from runstore.core.printable import escaped

LogFormat = Literal["logfmt", "json"]
Render = Callable[[object, str, EventDict], str]

MAX_LINE = 16_384  # characters of a message
MAX_LINES = 2_000  # lines waiting to be written; more are dropped
FLUSH_S = 1.0  # seconds at exit for waiting lines to be written

log = structlog.get_logger(__name__)


def _time_of_record(logger: object, name: str, line: EventDict) -> EventDict:
    """The time of the record. Several handlers render a library's line, and all of them must agree."""
    at = datetime.fromtimestamp(line["_record"].created, UTC)
    line["timestamp"] = at.replace(tzinfo=None).isoformat() + "Z"
    return line


def _without_keys(logger: object, name: str, line: EventDict) -> EventDict:
    """Remove keys: a library's message may quote a provider's, which may quote a key."""
    for field in ("event", "exception"):
        if isinstance(line.get(field), str):
            line[field] = without_keys(line[field])
    return line


def _processors(stamp: Processor) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        stamp,
        structlog.processors.format_exc_info,
    ]


_OURS = _processors(structlog.processors.TimeStamper(fmt="iso", utc=True))
_OTHERS = [*_processors(_time_of_record), _without_keys]
_KEYS = ["level", "timestamp", "run_id"]
_FIELDS = structlog.processors.LogfmtRenderer(key_order=_KEYS, drop_missing=True, bool_as_flag=False)
_JSON = structlog.processors.JSONRenderer(ensure_ascii=False)


def _logfmt(logger: object, name: str, line: EventDict) -> str:
    """The event as the first word, then its fields, always in one line."""
    event = "\\n".join(str(line.pop("event", "")).splitlines())
    return escaped(f"{event} {_FIELDS(logger, name, _present(line))}")


def _json(logger: object, name: str, line: EventDict) -> str:
    """A JSON object in one line, with the keys in logfmt's order."""
    ordered = {key: line.pop(key) for key in ("event", *_KEYS) if key in line}
    text = _JSON(logger, name, _present({**ordered, **line}))
    return escaped(text if isinstance(text, str) else text.decode())


def _present(line: EventDict) -> EventDict:
    return {key: value for key, value in line.items() if value is not None}


class _Line(str):
    """A line of ours, in its final form."""


def _finished(render: Render) -> Processor:
    def finish(logger: object, name: str, line: EventDict) -> Any:
        try:
            return _Line(render(logger, name, {**line}))
        except Exception:  # a field cannot be printed; the caller goes on
            return _Line(render(logger, name, _printable(render, line)))

    return finish


def _printable(render: Render, line: EventDict) -> EventDict:
    """The fields that can be printed, and the names of the others."""
    printable, others = {}, []
    for key, value in line.items():
        try:
            render(None, "", {key: value})
        except Exception as error:
            others.append(f"{key} ({type(error).__name__})")
        else:
            printable[key] = value
    return {**printable, "not_printed": ", ".join(others)}


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Brings the lines of libraries into the form of ours."""

    def format(self, record: logging.LogRecord) -> str:
        """See `Formatter.format`."""
        return record.msg if isinstance(record.msg, _Line) else super().format(record)


RENDER: dict[LogFormat, Render] = {"logfmt": _logfmt, "json": _json}


def configure_logs(
    log_format: LogFormat = "logfmt", log_file: str | None = None, *, queued: bool = False
) -> None:
    """Send our lines, and libraries' warnings, to standard error; also append them to `log_file`.

    Args:
        queued: a thread writes them; call `flush_logs` before the process exits.

    Raises:
        ConfigError: the file cannot be opened.
    """
    finish = _finished(RENDER[log_format])
    structlog.configure(
        processors=[*_OURS, finish],
        logger_factory=_logger,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    formatter = _Formatter(
        foreign_pre_chain=_OTHERS,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, finish],
    )
    handlers: list[logging.Handler] = [] if log_file is None else [_open(Path(log_file))]
    handlers.append(logging.StreamHandler())
    if queued:
        handlers = [_Queued(handlers)]
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = handlers
    root.setLevel(logging.WARNING)
    logging.getLogger("runstore").setLevel(logging.INFO)
    # An abandoned agent is collected outside its spans' context; they need no detach then, nor an error
    # line.
    logging.getLogger("opentelemetry.context").setLevel(logging.CRITICAL)


class _Enabled:
    """Part of a logger's class, with which nothing disables it.

    `logging.config.dictConfig` and `fileConfig`, which an agent's module or a library may call, disable all
    loggers that exist and that they do not name.
    """

    @property
    def disabled(self) -> bool:
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        pass


def _logger(*arguments: Any) -> logging.Logger:
    logger: logging.Logger = structlog.stdlib.LoggerFactory()(*arguments)
    if not isinstance(logger, _Enabled):
        logger.__class__ = type("Enabled", (_Enabled, type(logger)), {})
    return logger


def flush_logs() -> None:
    """Wait until the logged lines are written, for FLUSH_S at most."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Queued):
            handler.flush_within(FLUSH_S)


class _Queued(QueueHandler):
    """Queues lines for a thread to write, so that logging never waits for the reader.

    Surplus lines are dropped.

    An agent may log a megabyte at every token, and the pipe behind standard error may be blocked.
    """

    def __init__(self, targets: list[logging.Handler]) -> None:
        self._lines: Queue[logging.LogRecord] = Queue(MAX_LINES)
        super().__init__(self._lines)
        self._dropped = 0
        _Listener(self._lines, *targets).start()

    def createLock(self) -> None:
        """Use no lock: it would be held while an agent's arguments are formatted, which may never end."""
        self.lock = None

    def prepare(self, record: logging.LogRecord) -> Any:
        """See `QueueHandler.prepare`."""
        if isinstance(record.msg, _Line):
            return record
        if isinstance(record.msg, str) and len(message := record.getMessage()) > MAX_LINE:
            record.msg, record.args = f"{message[:MAX_LINE]}… ({len(message):,} characters)", None
        return super().prepare(record)

    def enqueue(self, record: logging.LogRecord) -> None:
        """See `QueueHandler.enqueue`."""
        try:
            self._lines.put_nowait(record)
        except Full:
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("log_lines_dropped", lines=dropped)

    def flush_within(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` seconds until the queue has been written."""
        written = self._lines.all_tasks_done
        with written:
            written.wait_for(lambda: not self._lines.unfinished_tasks, timeout_s)


class _Listener(QueueListener):
    """The thread that writes queued lines. It must outlive any line: without it all others are lost."""

    def handle(self, record: logging.LogRecord) -> None:
        """See `QueueListener.handle`."""
        with suppress(Exception):  # RecursionError, which handlers let pass
            super().handle(record)


class _LogFile(WatchedFileHandler):
    """A file that may be moved away during writing, with its folder; the next line then starts a new one.

    While it cannot be written, its lines are lost: one line says so, on standard error.
    """

    _lost = False  # the last line
    _reported = False  # since a line was written

    def emit(self, record: logging.LogRecord) -> None:
        """See `Handler.emit`."""
        self._lost = False
        try:
            super().emit(record)
        except OSError:  # the file cannot be opened again
            self.handleError(record)
        self._reported = self._lost

    def handleError(self, record: logging.LogRecord) -> None:
        """See `Handler.handleError`. The standard library's writes a traceback for each line."""
        self._lost = True
        if not self._reported:
            self._reported = True
            log.error("log_file_unwritable", file=self.baseFilename, error=str(sys.exc_info()[1]))

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(exist_ok=True)
        return super()._open()


def log_as_library() -> None:
    """Send our lines to the standard library's loggers in a program that has not configured structlog.

    The program configures the loggers named `runstore.…`; by default they show warnings.
    """
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.format_exc_info,
                _finished(_logfmt),
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )


def _open(path: Path) -> logging.Handler:
    try:
        return _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        message = f"log file {path}: cannot be opened: {error.strerror or error}"
        raise ConfigError(message, setting="log_file") from error
