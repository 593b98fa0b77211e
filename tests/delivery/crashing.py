"""A `worker` or `serve` that kills itself at a named point, once: `python -m tests.delivery.crashing POINT FLAG`.

The point lies at a call that the service makes there anyway, so production code knows nothing of it. The file FLAG
exists until the crash has happened; a process that starts without it runs as usual.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conversations_api import serving, settings, working
from delivery import evidence, http_exchange, lookup, recording, worker
from delivery.reconciler import Reconciler
from delivery.twilio_gateway import TwilioGateway
from delivery.worker import Worker
from handlers import messages as message_handlers
from persistence import attempts, idempotency, messages, outbox_work

# Name -> (command, where the function is found, its name, whether it still runs before the crash).
POINTS: dict[str, tuple[str, Any, str, bool]] = {
    "request_received": ("serve", message_handlers, "_queue", False),
    "message_inserted": ("serve", messages, "insert", True),
    "all_inserted_not_committed": ("serve", idempotency, "insert", True),
    "committed_not_answered": ("serve", message_handlers, "_created", False),
    "status_applied_not_committed": ("serve", evidence, "accept", True),
    "claimed_not_committed": ("worker", outbox_work, "claim", True),
    "attempt_recorded_not_committed": ("worker", attempts, "start", True),
    "committed_not_connected": ("worker", TwilioGateway, "create_message", False),
    "connected_nothing_written": ("worker", http_exchange, "_require_leave", True),
    "half_written": ("worker", http_exchange, "_write", False),
    "written_not_answered": ("worker", http_exchange, "_read", False),
    "answered_not_recorded": ("worker", recording, "record_accepted", False),
    "recorded_not_committed": ("worker", recording, "record_accepted", True),
    "recorded": ("worker", Worker, "_release", True),
    "reconciler_before_doubt": ("worker", evidence, "doubt", False),
    "reconciler_doubted_not_committed": ("worker", evidence, "doubt", True),
    "reconciler_asked_not_recorded": ("worker", lookup, "list_since", True),
    "reconciler_negative_not_committed": ("worker", Reconciler, "_count_negative", True),
}


def crash_at(point: str, flag: Path) -> str:
    """Make this process kill itself there, once; the command that passes there."""
    command, home, name, runs_first = POINTS[point]
    original: Callable[..., Any] = getattr(home, name)

    @functools.wraps(original)
    def crash(*arguments: Any, **named: Any) -> Any:
        if not flag.exists():
            return original(*arguments, **named)
        if runs_first:
            original(*arguments, **named)
        elif point == "half_written":
            connection, request, _ = arguments
            connection.sendall(request[: len(request) // 2])
        elif point == "written_not_answered":
            arguments[0].recv(1)  # the carrier has it all, and has begun to answer
        flag.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    setattr(home, name, crash)
    assert worker.recording is recording  # the callers look the function up where it is replaced
    return command


def main() -> None:
    point, flag = sys.argv[1], Path(sys.argv[2])
    command = crash_at(point, flag)
    {"serve": serving.serve, "worker": working.work}[command](settings.read(command))


if __name__ == "__main__":
    main()
