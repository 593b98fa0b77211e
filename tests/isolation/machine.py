"""Hypothesis plays three agencies against one API: every operation, everybody's ids, in any order and combination.

Each step asks for something, of one's own or of others, and compares the whole answer with the model; of every answer
each id, number and word is traced to its owner. Nothing here knows how the service keeps agencies apart.
"""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from tests.agencies import ACCOUNT_SID
from tests.api_client import AUTH_TOKEN, BASE_PATH, Answer
from tests.isolation.model import SENDERS, Caller, Choice, Message, Office
from tests.isolation.play import Play

CALLERS = [
    Caller("user_a", 0, "staff"),
    Caller("user_b", 1, "owner"),
    Caller("user_c", 2, "manager"),
    Caller("user_b_viewer", 1, "viewer"),
    Caller("user_of_two", 0, "staff"),
]
PLACES = ["none", "none", "none", "header", "header", "query", "query", "both", "both", "disagree"]
# How far the agency whose things are asked for is from the one that the request acts for; 3 is nobody's.
DISTANCES = [0, 0, 0, 1, 2, 3]
STATUSES = ["queued", "sent", "delivered", "read", "failed", "undelivered", "unheard_of"]
DEEDS = ["sort", "sort", "employ", "employ", "dismiss", "suspend", "lose", "lose"]


@dataclass(frozen=True)
class Turn:
    """Who plays, for which agency, about whose things, and dice for the rest."""

    caller: Caller
    choice: Choice
    agency: int
    distance: int
    dice: int
    second_distance: int
    second_dice: int


TURNS = st.builds(
    Turn,
    caller=st.sampled_from(CALLERS),
    choice=st.builds(Choice, named=st.sampled_from([None, None, None, 0, 1, 2, -1]), place=st.sampled_from(PLACES)),
    agency=st.integers(0, 2),
    distance=st.sampled_from(DISTANCES),
    dice=st.integers(0, 10_000),
    second_distance=st.sampled_from(DISTANCES),
    second_dice=st.integers(0, 10_000),
)
MOVES = {
    "receive_message": 3,
    "report_status": 2,
    "operate": 1,
    "list_conversations": 3,
    "get_conversation": 2,
    "list_messages": 3,
    "get_message": 2,
    "send_message": 4,
    "resend_message": 2,
    "probe": 1,
}


class Isolation(Play):
    """One play with three new agencies."""

    @initialize()
    def contacts_have_written(self) -> None:
        for office in self.world.offices:
            for number in range(2):
                self.receive(office, "sms", office.phone(number), self.new_text(office))

    # One rule: Hypothesis would leave most of several out of each play.
    @rule(move=st.sampled_from([move for move, weight in MOVES.items() for _ in range(weight)]), turn=TURNS)
    def step(self, move: str, turn: Turn) -> None:
        self.counts["steps"] += 1
        getattr(self, move)(turn)

    def receive_message(self, turn: Turn) -> None:
        office = self.world.offices[turn.agency]
        content = {0: "STOP", 1: "START", 2: "START"}.get(turn.dice % 16) or self.new_text(office)
        self.receive(office, ["sms", "whatsapp"][turn.dice % 2], office.phone(turn.second_dice % 4), content)

    def report_status(self, turn: Turn) -> None:
        message, good = self.any_message((turn.agency + turn.distance) % 3, turn.dice), turn.distance < 3
        office, status = self.world.offices[turn.agency], STATUSES[turn.second_dice % len(STATUSES)]
        path = f"{BASE_PATH}/webhooks/twilio/status/{office.agency.id}/{message.id}/1"
        form = {"AccountSid": ACCOUNT_SID, "MessageSid": message.sid, "MessageStatus": status}
        answer = self.api.post_signed(path, form.items(), token=AUTH_TOKEN if good else "0" * 32)
        self.saw("receiveMessageStatus", answer, path, None)
        assert answer.status == (200 if good else 403)
        known = office.message(message.id)
        if good and known is not None:
            known.report(status)

    def operate(self, turn: Turn) -> None:
        getattr(self, DEEDS[turn.dice % len(DEEDS)])(self.world.offices[turn.agency], turn.second_dice)

    def list_conversations(self, turn: Turn) -> None:
        status = [None, None, "open", "resolved"][turn.dice % 4]
        query: dict[str, object] = {"limit": turn.second_dice % 4 + 1} | ({"status": status} if status else {})
        if turn.dice % 3 == 1:
            query["location_id"] = self.any_location(self.whose(turn.caller, turn.choice, turn.distance))
        if turn.dice % 5 == 1 and self.cursors:
            query["cursor"] = self.cursors[turn.second_dice % len(self.cursors)]
        elif turn.dice % 5 == 2:
            query["offset"] = turn.second_dice % 3

        def check(answer: Answer, office: Office) -> None:
            page = answer.json
            mine = query.get("location_id") in (None, str(office.agency.location_id))
            expected = [thread.id for thread in office.inbox(status=status)] if mine else []
            assert page["total"] == len(expected)
            # A cursor, whoever's, is a place in the order: what follows it is a run of the list.
            starts = range(len(expected) + 1) if "cursor" in query else [int(str(query.get("offset", 0)))]
            runs = [expected[start : start + int(str(query["limit"]))] for start in starts]
            assert [conversation["id"] for conversation in page["conversations"]] in runs
            for conversation in page["conversations"]:
                self.check_conversation(conversation, office)
            if page["next_cursor"] is not None:
                self.cursors.append(page["next_cursor"])

        self.read(turn.caller, turn.choice, "listConversations", "/conversations", query, check)

    def get_conversation(self, turn: Turn) -> None:
        conversation_id = self.any_thread(self.whose(turn.caller, turn.choice, turn.distance), turn.dice)

        def check(answer: Answer, office: Office) -> None:
            if office.thread(conversation_id) is None:
                assert answer.refusal == (404, "conversation_not_found")
            else:
                self.check_conversation(answer.json, office)

        self.read(turn.caller, turn.choice, "getConversation", f"/conversations/{conversation_id}", {}, check)

    def list_messages(self, turn: Turn) -> None:
        conversation_id = self.any_thread(self.whose(turn.caller, turn.choice, turn.distance), turn.dice)
        query: dict[str, object] = {"limit": turn.second_dice % 5 + 1}
        if turn.dice % 2:
            of = self.whose(turn.caller, turn.choice, turn.second_distance)
            query["before"] = self.any_message(of, turn.second_dice).id

        def check(answer: Answer, office: Office) -> None:
            thread = office.thread(conversation_id)
            if thread is None:
                assert answer.refusal == (404, "conversation_not_found")
                return
            messages = thread.messages[::-1]
            ids = [message.id for message in messages]
            if "before" in query and query["before"] not in ids:
                assert answer.refusal == (400, "invalid_request")
                return
            start = ids.index(str(query["before"])) + 1 if "before" in query else 0
            end = start + int(str(query["limit"]))
            self.check_messages(answer.json["messages"], messages[start:end])
            assert answer.json["has_more"] == (len(messages) > end)

        self.read(turn.caller, turn.choice, "listMessages", f"/conversations/{conversation_id}/messages", query, check)

    def get_message(self, turn: Turn) -> None:
        message_id = self.any_message(self.whose(turn.caller, turn.choice, turn.distance), turn.dice).id

        def check(answer: Answer, office: Office) -> None:
            message = office.message(message_id)
            if message is None:
                assert answer.refusal == (404, "message_not_found")
            else:
                self.check_messages([answer.json], [message])
                assert {event["provider_status"] for event in answer.json["history"]} == message.events

        self.read(turn.caller, turn.choice, "getMessage", f"/messages/{message_id}", {}, check)

    def send_message(self, turn: Turn) -> None:
        conversation_id = self.any_thread(self.whose(turn.caller, turn.choice, turn.distance), turn.dice)
        number, role = self.world.who(turn.caller, turn.choice)
        author = self.world.offices[turn.caller.home if number is None else number]
        # The same words again, so that the same key may come with the same request, of this agency or another.
        content = author.text(0) if turn.dice % 2 else self.new_text(author)
        key = [None, "key-1", "key-2", "key-3"][turn.second_dice % 4]
        path = f"/conversations/{conversation_id}/messages"
        answer = self.ask(turn.caller, turn.choice, "sendMessage", path, body={"content": content}, key=key)
        # What was sent before is told to a suspended agency, too.
        repeated = key in author.keys and role in SENDERS
        if number is None or (not repeated and self.refused_sending(answer, number, role)):
            return
        thread, asked = author.thread(conversation_id), (conversation_id, content)
        if key in author.keys:
            first, body = author.keys[key]
            if first == asked:
                assert (answer.status, answer.body) == (201, body)
            else:
                assert answer.refusal == (422, "idempotency_key_reused")
        elif thread is None:
            assert answer.refusal == (403, "conversation_forbidden")
        elif thread.opted_out:
            assert answer.refusal == (422, "contact_opted_out")
        else:
            assert answer.status == 201
            self.add(author, thread, Message(answer.json["id"], content, "outbound", "queued", in_outbox=True))
            self.check_messages([answer.json], thread.messages[-1:])
            if key is not None:
                author.keys[key] = (asked, answer.body)

    def resend_message(self, turn: Turn) -> None:
        message_id = self.any_message(self.whose(turn.caller, turn.choice, turn.distance), turn.dice).id
        number, role = self.world.who(turn.caller, turn.choice)
        answer = self.ask(turn.caller, turn.choice, "resendMessage", f"/messages/{message_id}/resend", body="")
        if number is None or self.refused_sending(answer, number, role):
            return
        office = self.world.offices[number]
        message = office.message(message_id)
        if message is None:
            assert answer.refusal == (404, "message_not_found")
        elif message.direction == "inbound":
            assert answer.refusal == (422, "not_resendable")
        elif next(thread for thread in office.threads.values() if message in thread.messages).opted_out:
            assert answer.refusal == (422, "contact_opted_out")
        elif message.in_outbox or message.status != "unconfirmed":
            assert answer.refusal == (422, "not_resendable")
        else:
            assert answer.status == 200
            message.status, message.in_outbox = "queued", True
            self.check_messages([answer.json], [message])

    def probe(self, turn: Turn) -> None:
        path = ["/healthz", "/readyz"][turn.dice % 2]
        headers = [("X-Tenant-ID", str(self.world.offices[turn.agency].agency.id))]
        answer = self.api.ask("GET", BASE_PATH + path, headers=headers)
        self.saw(path, answer, "", None)
        assert answer.status == 200
