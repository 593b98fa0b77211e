"""How often a request asks PostgreSQL: each time costs more than most statements do."""

from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from sqlalchemy import event

from delivery import inbound
from delivery.inbound import InboundMessage
from handlers import conversations, messages
from handlers.requests import Request
from handlers.services import Services
from tenancy.authentication import Claims
from tenancy.rate_limits import RateLimits
from tenancy.transaction import Database, tenant_transaction
from tests.api_client import Api


@pytest.mark.parametrize(
    ("what", "round_trips"), [("list", 1), ("thread", 1), ("send", 2), ("send with a key", 2), ("replay", 2)]
)
def test_a_request_asks_the_database_so_often_and_no_more(api: Api, what: str, round_trips: int) -> None:
    agency = api.new_agency()
    conversation = api.converse(agency)
    database = Database(api.urls.app, pool_size=1)
    services = SimpleNamespace(database=database, rate_limits=RateLimits(requests_per_minute=0, sends_per_minute=0))

    def request(key: str | None = None) -> Request:
        return Request(
            services=cast("Services", services),
            state={"request_id": "x"},
            claims=Claims("user_x", agency.id, "staff"),
            headers={} if key is None else {"idempotency-key": key},
            tenant_id=None,
            target="",
            body=b"",
        )

    def ask(key: str | None) -> Any:
        if what == "list":
            return conversations.list_conversations(request(), limit=20)
        if what == "thread":
            return messages.list_messages(request(), conversation, limit=50)
        return messages.send_message(request(key), conversation, {"content": "Hello"})

    key = None if what == "send" else str(uuid4())
    ask(key)  # the connection is there now
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda _c, _k, sql, *_: asked.append(sql))
    ask(key if what == "replay" else key and str(uuid4()))
    database.close()
    assert len(asked) == round_trips


def test_what_a_contact_writes_asks_the_database_twice_beside_whose_it_is(api: Api) -> None:
    agency = api.new_agency()
    database = Database(api.urls.app, pool_size=1)
    asked: list[str] = []

    def write(number: int, sender: str = "+12025550123") -> bool:
        message = InboundMessage(twilio_sid=f"SM{sender}{number:020}", sender=sender, content="Hello")
        asked.clear()
        with suppress(inbound.AlreadyHere), tenant_transaction(database, agency.id) as connection:
            inbound.store(connection, channel_id=agency.sms_id, message=message)
            return True
        return False

    assert write(1, "+12025550124")  # all of it is prepared now
    event.listen(database.engine, "before_cursor_execute", lambda _c, _k, sql, *_: asked.append(sql))
    assert write(1)
    assert len(asked) == 3  # a contact who is not known yet
    assert write(2)
    assert len(asked) == 2
    assert not write(2)
    assert len(asked) == 2
    database.close()
