"""Log lines: logfmt on standard error, the event first, with `run_id=` where a run is concerned."""

import logging

import structlog

_SHARED: list[structlog.typing.Processor] = [
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]
_FIELDS = structlog.processors.LogfmtRenderer(
    key_order=["level", "timestamp", "run_id"], drop_missing=True, bool_as_flag=False
)


def _render(logger: object, name: str, line: structlog.typing.EventDict) -> str:
    """The event as the first word, then what belongs to it."""
    event = line.pop("event", "")
    return f"{event} {_FIELDS(logger, name, line)}"


def configure_logs() -> None:
    """Send our lines, and warnings of the libraries, to standard error."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("runstore").setLevel(logging.INFO)
