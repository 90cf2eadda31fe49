"""One JSON object a line on stderr, for programs that read logs: of drivers and of workers alike.

Turned on for a process, whatever speaks through `logging` or `warnings` in it speaks so. Every line has ``time``,
``level``, ``event`` and ``message``; beside them what is known of it by name (``run``, ``unit``, ``attempt``,
``chunk``, ``source``, ``kind``, …). Texts are masked as errors are.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ingest.errors import mask_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "JsonLines",
    "about",
    "adopt_logger",
    "json_lines_are_on",
    "log_event",
    "say_always",
    "start_json_lines",
    "stop_json_lines",
]

_OURS = ("ingest", "index", "actors")
_LEAF_TYPES = (int, float, bool, type(None))

_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default={})  # noqa: B039 # never changed, replaced


class JsonLines(logging.Formatter):
    """A record as one line of JSON; fields that hold in the whole process stand in each."""

    def __init__(self, **always: Any) -> None:
        super().__init__()
        self.always = always

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        event = getattr(record, "event", None)
        line: dict[str, Any] = {
            "time": f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": event or "log",
        }
        if event is None:
            line["logger"] = record.name
        line |= self.always | dict(_about.get()) | getattr(record, "fields", {})
        line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        # In ASCII: there are more ends of lines than one in Unicode, and readers that know them.
        return json.dumps(_plain(line), separators=(",", ":"))


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it, its texts masked: before encoding, since masks may end at a quote."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items() if one is not None}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    is_json = isinstance(value, _LEAF_TYPES) and not (isinstance(value, float) and not math.isfinite(value))
    return value if is_json else str(value)


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what stderr is now, not to what it was when logging began."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        del value


class _State:
    """What there is to undo."""

    handler: logging.Handler | None = None
    levels: tuple[tuple[logging.Logger, int], ...] = ()
    adopted: tuple[tuple[logging.Logger, list[logging.Handler], bool], ...] = ()


_state = _State()


def json_lines_are_on() -> bool:
    """Whether this process logs JSON."""
    return _state.handler is not None


def start_json_lines(**always: Any) -> None:
    """Have this process log JSON to stderr: our own from level info, others' from warning; twice is once.

    Parameters
    ----------
    always
        Fields of every line.
    """
    if _state.handler is not None:
        return
    handler = _Stderr()
    handler.setFormatter(JsonLines(**always))
    _state.handler = handler
    logging.getLogger().addHandler(handler)
    loggers = [logging.getLogger(name) for name in _OURS]
    _state.levels = tuple((logger, logger.level) for logger in loggers)
    for logger in loggers:
        logger.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


def say_always(**fields: Any) -> None:
    """Have every line from now on say these as well; without `start_json_lines`, do nothing."""
    if _state.handler is not None and isinstance(_state.handler.formatter, JsonLines):
        _state.handler.formatter.always |= fields


def stop_json_lines() -> None:
    """Undo `start_json_lines`."""
    if _state.handler is None:
        return
    logging.captureWarnings(capture=False)
    logging.getLogger().removeHandler(_state.handler)
    _state.handler = None
    for logger, level in _state.levels:
        logger.setLevel(level)
    for logger, handlers, propagate in _state.adopted:
        logger.handlers, logger.propagate = handlers, propagate
    _state.adopted = ()


def adopt_logger(name: str) -> None:
    """Have a logger that writes by itself write JSON instead; without `start_json_lines`, do nothing."""
    logger = logging.getLogger(name)
    if _state.handler is None or not logger.handlers:
        return
    _state.adopted += ((logger, logger.handlers, logger.propagate),)
    logger.handlers, logger.propagate = [], True


def log_event(logger: logging.Logger, event: str, message: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log a message with a name of its own and what is known of it; nothing where `logger` is not enabled."""
    logger.log(level, "%s", message, extra={"event": event, "fields": fields}, stacklevel=2)


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Have what is logged in the body, and in threads that copy its context, say what it is about."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)
