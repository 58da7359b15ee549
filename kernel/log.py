"""Structured logs on stderr: one JSON line an event, UTC, no secrets, no control characters."""

import logging
import sys

import structlog


def configure(level: str = "INFO") -> None:
    """Send our logs and the libraries' through one JSON formatter on stderr."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The journal is the access log; a line a request would cost as much as the request.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    for name in ("alembic", "celery.beat", "httpx", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns at every start that a broker made of files has no host name.
    logging.getLogger("kombu.connection").setLevel(logging.ERROR)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
