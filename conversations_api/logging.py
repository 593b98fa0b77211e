"""JSON logs: one event, one line, and nothing in it that a customer wrote.

Our own modules log words of ours and name values in `extra`. Other people's libraries put what they were given into
their messages (Twilio's SDK the phone numbers, Connexion the body, psycopg2 the row), so of their records only where
they come from is kept, and of an exception only its class and the places it passed, never its text.
"""

import contextvars
import json
import logging
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

# What is known of the request in progress: the edge binds the request's state, in which the agency appears later.
request_state: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("request_state")

MAX_LINES_PER_SECOND = 1000
MAX_TEXT = 500  # characters of any one value
MAX_FRAMES = 12

_BOUND = ("request_id", "operation", "agency_id")
_OURS = frozenset({"api", "conversations_api", "delivery", "handlers", "persistence", "tenancy"})
# These speak of the process, not of requests, and an operator needs their words.
_TRUSTED = ("uvicorn.error", "gunicorn.error", "alembic.runtime")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send every log of the process to `stream` (standard error unless given) as JSON. May be called again."""
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(LineCap(MAX_LINES_PER_SECOND))
    logging.captureWarnings(True)
    # No line shows them, and to find them out takes system calls.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "gunicorn.error", "alembic.runtime"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.INFO)
    # Its lines hold the query; the edge writes one line per request instead.
    logging.getLogger("uvicorn.access").disabled = True
    threading.excepthook = _log_thread_end


_encode = json.JSONEncoder(separators=(",", ":")).encode


class JsonFormatter(logging.Formatter):
    """One line of ASCII: control characters and line ends cannot leave their string."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.name.partition(".")[0] in _OURS or record.name.startswith(_TRUSTED):
            fields["event"] = _message(record)
        else:
            fields |= {"event": "library message withheld", "at": f"{record.module}:{record.lineno}"}
        state = request_state.get({})
        fields |= {name: _plain(state[name]) for name in _BOUND if state.get(name) is not None}
        if record.name.partition(".")[0] in _OURS:
            fields |= {name: _plain(value) for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = describe(record.exc_info[1])
        return _encode(fields).replace("\x7f", "\\u007f")


class LineCap(logging.Filter):
    """Drops what exceeds a number of lines per second, and says how many were dropped when lines flow again."""

    def __init__(self, lines_per_second: int) -> None:
        super().__init__()
        self._limit = lines_per_second
        self._second = 0
        self._lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        # Runs without a lock: a race miscounts by a line or two, which is no harm.
        second = int(record.created)
        if second != self._second:
            dropped = self._lines - self._limit
            self._second, self._lines = second, 0
            if dropped > 0:
                record.log_lines_dropped = dropped
        self._lines += 1
        return self._lines <= self._limit


def describe(error: BaseException) -> list[dict[str, Any]]:
    """The classes of an exception and of its causes, each with the places it passed; never their texts."""
    chain: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 5:
        frames = []
        traceback = current.__traceback__
        while traceback is not None:
            code = traceback.tb_frame.f_code
            frames.append(f"{traceback.tb_frame.f_globals.get('__name__', '?')}:{traceback.tb_lineno} {code.co_name}")
            traceback = traceback.tb_next
        chain.append({"class": type(current).__qualname__, "at": frames[-MAX_FRAMES:]})
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return chain


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()[:MAX_TEXT]
    except Exception:
        return "unreadable message"


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:20]]
    return str(value)[:MAX_TEXT]


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """The standard one prints the arguments of the call; a log that cannot be written is only not written."""


def _log_thread_end(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_value is not None and not isinstance(hook.exc_value, SystemExit):
        logging.getLogger(__name__).error("thread ended by an error", exc_info=hook.exc_value)
