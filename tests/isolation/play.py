"""The moves of the play, and what is compared after each: the parts that the rules are made of."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import urlencode

from hypothesis.stateful import RuleBasedStateMachine

from tests.api_client import BASE_PATH, INBOUND, Answer, Api, inbound_form, new_sid
from tests.isolation.model import SENDERS, Caller, Choice, Message, Office, Thread, World

WHERE_IT_WENT = """
    select messages.id, conversation_id, contact_id
    from messages
    join conversations on conversations.agency_id = messages.agency_id and conversations.id = conversation_id
    where messages.agency_id = :agency_id
    and conversations.agency_id = :agency_id
    and twilio_sid = :sid
"""


class Play(RuleBasedStateMachine):
    """`api` and `counts` belong to all plays."""

    api: ClassVar[Api]
    counts: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.world = World([self.api.new_agency() for _ in range(3)])
        self.cursors: list[str] = []
        self.texts = 0

    def new_text(self, office: Office) -> str:
        self.texts += 1
        return office.text(self.texts)

    def whose(self, caller: Caller, choice: Choice, distance: int) -> int:
        """An agency so far from the one that the request acts for; 3 is none."""
        number, _ = self.world.who(caller, choice)
        return 3 if distance == 3 else ((caller.home if number is None else number) + distance) % 3

    def any_location(self, whose: int) -> str:
        return self.world.nobody if whose == 3 else str(self.world.offices[whose].agency.location_id)

    def any_thread(self, whose: int, what: int) -> str:
        """The id of a conversation of this agency."""
        if whose == 3:
            return self.world.nobody
        threads = list(self.world.offices[whose].threads.values())
        return threads[what % len(threads)].id

    def any_message(self, whose: int, what: int) -> Message:
        """A message of this agency, rather a late one."""
        if whose == 3:
            return Message(self.world.nobody, "", "outbound", "")
        threads = self.world.offices[whose].threads.values()
        messages = [message for thread in threads for message in reversed(thread.messages)]
        return messages[what % len(messages)]

    # --- What operators and a worker do -------------------------------------------------------------------------------

    def sort(self, office: Office, what: int) -> None:
        thread = list(office.threads.values())[what % len(office.threads)]
        thread.status = ["open", "in_progress", "resolved"][what % 3]
        self.api.set_status(office.agency, thread.status, thread.id)

    def dismiss(self, office: Office, _what: int) -> None:
        delete = "delete from agency_members where agency_id = :agency_id and user_id = 'user_of_two'"
        self.sql(office, delete)
        office.members.pop("user_of_two", None)

    def employ(self, office: Office, what: int) -> None:
        self.dismiss(office, what)
        office.members["user_of_two"] = ["viewer", "manager", "staff"][what % 3]
        insert = "insert into agency_members (agency_id, user_id, role) values (:agency_id, 'user_of_two', :role)"
        self.sql(office, insert, role=office.members["user_of_two"])

    def suspend(self, office: Office, _what: int) -> None:
        """Or let it send again."""
        office.suspended = not office.suspended
        status = "suspended" if office.suspended else "active"
        self.sql(office, "update agencies set status = :status where agency_id = :agency_id", status=status)

    def lose(self, office: Office, what: int) -> None:
        """The worker does not learn what became of a message, and gives up."""
        messages = [
            each for thread in office.threads.values() for each in thread.messages if each.direction == "outbound"
        ]
        if not messages:
            return
        message = messages[what % len(messages)]
        message.status, message.in_outbox = "unconfirmed", False
        update = "update messages set status = 'unconfirmed' where agency_id = :agency_id and id = cast(:id as uuid)"
        self.sql(office, update, id=message.id)
        delete = "delete from outbox where agency_id = :agency_id and message_id = cast(:id as uuid)"
        self.sql(office, delete, id=message.id)

    # --- Moves --------------------------------------------------------------------------------------------------------

    def receive(self, office: Office, channel: str, phone: str, content: str) -> None:
        """A contact writes."""
        prefix, to = "", office.agency.sms_address
        if channel == "whatsapp":
            prefix, to = "whatsapp:", office.agency.whatsapp_address
        sid, number = new_sid(), self.world.offices.index(office)
        form = inbound_form(office.agency, content, MessageSid=sid, From=prefix + phone, To=to)
        form["ProfileName"] = f"agency-{office.name}-contact"
        answer = self.api.post_signed(INBOUND, form.items())
        self.saw("receiveInboundMessage", answer, "", None)
        assert answer.status == 200
        [row] = self.sql(office, WHERE_IT_WENT, sid=sid)
        self.world.own(number, phone, sid, str(row.id), str(row.conversation_id), str(row.contact_id))
        thread = office.threads.setdefault((channel, phone), Thread(str(row.conversation_id), channel, phone))
        assert thread.id == str(row.conversation_id)
        thread.opted_out = {"STOP": True, "START": False}.get(content, thread.opted_out)
        thread.status = "open" if thread.status == "resolved" else thread.status
        self.add(office, thread, Message(str(row.id), content, "inbound", "received"))

    def add(self, office: Office, thread: Thread, message: Message) -> None:
        self.world.own(self.world.offices.index(office), message.id, message.sid)
        thread.messages.append(message)
        thread.last_message = self.world.tick()

    def ask(
        self,
        caller: Caller,
        choice: Choice,
        operation: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Any = None,
        key: str | None = None,
    ) -> Answer:
        """One request as this user, naming an agency as chosen; refused where the model says that it must be."""
        token = self.api.token(self.world.offices[caller.home].agency.id, caller.role, caller.user_id)
        headers, parameters = [("Authorization", f"Bearer {token}")], dict(query or {})
        header, in_query = self._named(caller, choice)
        headers += [("X-Tenant-ID", header)] if header else []
        parameters |= {"tenant_id": in_query} if in_query else {}
        headers += [("Idempotency-Key", key)] if key else []
        raw = None
        if body is not None:
            raw = json.dumps(body).encode() if body else b""
            headers += [("Content-Type", "application/json")] if body else []
        target = BASE_PATH + path + ("?" + urlencode(parameters) if parameters else "")
        answer = self.api.ask("GET" if body is None else "POST", target, headers=headers, body=raw)
        number, code = self.world.who(caller, choice)
        self.saw(operation, answer, target + str(headers[1:]), number)
        if number is None:
            assert answer.refusal == ({"invalid_request": 400, "tenant_forbidden": 403}[code], code)
        return answer

    def read(
        self,
        caller: Caller,
        choice: Choice,
        operation: str,
        path: str,
        query: Mapping[str, object],
        check: Callable[[Answer, Office], None],
    ) -> None:
        """A GET; `check` compares the answer with the agency that it was given for, if it was given for one."""
        number, _ = self.world.who(caller, choice)
        answer = self.ask(caller, choice, operation, path, query=query)
        if number is not None:
            check(answer, self.world.offices[number])

    def refused_sending(self, answer: Answer, number: int, role: str) -> bool:
        """Whether this role may not send or this agency may not, and the answer says so."""
        if role not in SENDERS:
            assert answer.refusal == (403, "role_forbidden")
        elif self.world.offices[number].suspended:
            assert answer.refusal == (403, "agency_suspended")
        return role not in SENDERS or self.world.offices[number].suspended

    def check_conversation(self, shown: Mapping[str, Any], office: Office) -> None:
        thread = office.thread(shown["id"])
        assert thread is not None
        assert (shown["contact_phone"], shown["channel"], shown["status"]) == (
            thread.phone,
            thread.channel,
            thread.status,
        )
        assert shown["location_id"] == str(office.agency.location_id)
        assert shown["last_message_preview"] == thread.messages[-1].content
        assert (shown["messaging"]["blocked_reason"] == "contact_opted_out") == thread.opted_out

    def check_messages(self, shown: Sequence[Mapping[str, Any]], expected: Sequence[Message]) -> None:
        assert [(each["id"], each["content"], each["direction"], each["status"]) for each in shown] == [
            (message.id, message.content, message.direction, message.status) for message in expected
        ]

    def saw(self, operation: str, answer: Answer, asked: str, allowed: int | None) -> None:
        """Trace everything in the answer to its owner."""
        self.counts["requests"] += 1
        self.counts[f"{operation} {answer.status}"] += 1
        self.world.check(answer, asked, allowed)

    def sql(self, office: Office, statement: str, **parameters: Any) -> list[Any]:
        return self.api.sql(office.agency, statement, **parameters)

    def _named(self, caller: Caller, choice: Choice) -> tuple[str | None, str | None]:
        """What goes into the header and into the query."""
        number = caller.home if choice.named is None else choice.named
        named = self.world.nobody if number < 0 else str(self.world.offices[number].agency.id)
        if choice.place == "disagree":
            return named, str(self.world.offices[(number + 1) % 3].agency.id)
        if choice.named is None:
            return None, None
        return (
            named if choice.place in ("header", "both") else None,
            named if choice.place in ("query", "both") else None,
        )
