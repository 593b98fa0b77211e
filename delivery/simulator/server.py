"""A stand-in for Twilio's Messages API, for demo, tests and benchmarks only.

It speaks Twilio's own HTTP, so that the real SDK talks to it and only the base URL differs; it signs what it posts to
our webhooks, goes wrong on demand (`delivery.simulator.faults`), and keeps a record of every message it accepted.
In a test:  `with TwilioSimulator({"AC...": "token"}) as simulator: ... simulator.url`
On its own: `python -m delivery.simulator.server --account AC...:token --port 9080`
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from delivery.simulator import wire
from delivery.simulator.api import SimulatorApi
from delivery.simulator.faults import Faults
from delivery.simulator.messages import Messages
from delivery.simulator.webhooks import Inbound, Posted, Webhooks
from delivery.simulator.wire import Request


class TwilioSimulator:
    """A simulator on a thread and an event loop of its own, from `start` (or `with`) to `stop`.

    `accounts` maps account SIDs to auth tokens. With `record_path`, each accepted create is appended to that file as a
    line of JSON before it is answered, and an earlier run's lines are taken up again.
    """

    def __init__(
        self,
        accounts: Mapping[str, str],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        inbound_url: str | None = None,
        record_path: Path | None = None,
        status_delay_seconds: float = 0.05,
        answers: Sequence[str] = (),
        answer_delay_seconds: tuple[float, float] = (1.0, 5.0),
        faults: Mapping[str, Any] | None = None,
    ) -> None:
        self._host, self._port = host, port
        self._messages = Messages(record_path)
        self._webhooks = Webhooks(
            accounts,
            self._messages,
            inbound_url=inbound_url,
            status_delay_seconds=status_delay_seconds,
            answers=answers,
            answer_delay_seconds=answer_delay_seconds,
        )
        self.set_faults(faults or {})
        self._api = SimulatorApi(accounts, self._messages, self._webhooks)
        self._thread = threading.Thread(target=self._run, name="twilio-simulator")
        self._ready = threading.Event()
        self._failure: OSError | None = None
        self._loop: asyncio.AbstractEventLoop
        self._finish: asyncio.Event

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The record: every accepted create, in order."""
        return list(self._messages.record)

    @property
    def requests(self) -> list[Request]:
        """The latest requests to Twilio's API, as they came."""
        return list(self._api.requests)

    @property
    def posted(self) -> list[Posted]:
        """The latest posts to webhooks, each attempt by itself."""
        return list(self._webhooks.posted)

    @property
    def faults_struck(self) -> dict[str, int]:
        return dict(self._webhooks.faults.struck)

    def set_faults(self, settings: Mapping[str, Any]) -> None:
        """Replace all faults; `settings` as for PUT /simulator/faults. Raises ValueError or TypeError."""
        self._webhooks.faults = Faults.from_json(settings)

    def set_inbound_url(self, url: str | None) -> None:
        self._webhooks.inbound_url = url

    def receive(self, inbound: Inbound) -> tuple[str, int | None]:
        """Let a contact write: the message's SID and the webhook's HTTP status, None if nobody answered."""
        return asyncio.run_coroutine_threadsafe(self._webhooks.receive(inbound), self._loop).result()

    def start(self) -> None:
        """Raises OSError when the port cannot be had."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._finish.set)
            self._thread.join()

    def __enter__(self) -> "TwilioSimulator":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        with contextlib.closing(self._messages):
            asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._finish = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await wire.serve(self._host, self._port, self._api.handle)
        except OSError as error:
            self._failure = error
            return
        else:
            self._port = server.sockets[0].getsockname()[1]
        finally:
            self._ready.set()
        await self._finish.wait()
        server.close()
        await self._webhooks.stop()
        connections = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    settings = json.loads(options.faults.read_text(encoding="utf-8")) if options.faults else {}
    simulator = TwilioSimulator(
        dict(options.account),
        host=options.host,
        port=options.port,
        inbound_url=options.inbound_url,
        record_path=options.record,
        status_delay_seconds=options.status_delay,
        answers=options.contacts_answer.read_text(encoding="utf-8").splitlines() if options.contacts_answer else (),
        answer_delay_seconds=tuple(options.answer_delay),
        faults={"latency_ms": options.latency_ms, "seed": options.seed, **settings},
    )
    asked_to_stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    with simulator:
        sys.stdout.write(f"Twilio simulator listening on {simulator.url}\n")
        sys.stdout.flush()
        asked_to_stop.wait()


def _account(text: str) -> tuple[str, str]:
    sid, separator, token = text.partition(":")
    if not (sid.startswith("AC") and separator and token):
        raise argparse.ArgumentTypeError("an account is given as AC...:token")
    return sid, token


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m delivery.simulator.server", description="Stand in for Twilio.")
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0, the default, takes a free one")
    add("--account", type=_account, action="append", required=True, metavar="SID:TOKEN", help="may be repeated")
    add("--inbound-url", help="where contacts' messages are posted")
    add("--record", type=Path, help="append every accepted message to this file")
    add("--latency-ms", type=float, default=0.0, help="how long each answer takes")
    add("--status-delay", type=float, default=0.5, metavar="SECONDS", help="between one status and the next")
    add("--contacts-answer", type=Path, metavar="FILE", help="contacts answer with a line of this file")
    add("--answer-delay", type=float, nargs=2, default=(1.0, 5.0), metavar=("FROM", "TO"), help="seconds")
    add("--faults", type=Path, metavar="FILE", help="JSON as for PUT /simulator/faults")
    add("--seed", type=int, default=0, help="of the dice")
    return parser


if __name__ == "__main__":
    main()
