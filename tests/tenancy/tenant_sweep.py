"""The table of the tenant sweep: what each operation answers to somebody who asks for another agency's things.

A row stands for one request that succeeds for its own agency (`own`), so that a refusal is due to what the case
changes and to nothing else. Every operation of the contract has at least one row, those without a token too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Refusal = tuple[int, str]

UNAUTHENTICATED = (401, "unauthenticated")
TENANT_FORBIDDEN = (403, "tenant_forbidden")
BAD_SIGNATURE = (403, "invalid_signature")
INVALID = (400, "invalid_request")
CONVERSATION_NOT_FOUND = (404, "conversation_not_found")
MESSAGE_NOT_FOUND = (404, "message_not_found")
# Nothing to refuse: the same answer as without the case.
SAME = (0, "")


@dataclass(frozen=True)
class Row:
    """The expected answers: (status, code), or SAME.

    `query` and `form` give parameters and fields by the name of what they hold: a key of an agency's `ids`. In the
    case of foreign ids those listed in `foreign` are another agency's (all of the path, unless it says otherwise).
    """

    own: int
    foreign_ids: Refusal
    no_token: Refusal = UNAUTHENTICATED
    bad_token: Refusal = UNAUTHENTICATED
    foreign_header: Refusal = TENANT_FORBIDDEN
    foreign_query: Refusal = TENANT_FORBIDDEN
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] | None = None
    body: Any = None
    foreign: frozenset[str] = frozenset({"conversation_id", "message_id", "location_id", "before", "To"})
    # What the message is made to be before it is asked for.
    status: str | None = None


# No token is asked for, and the header is not read; there is no such parameter.
OPEN: dict[str, Any] = {"no_token": SAME, "bad_token": SAME, "foreign_header": SAME, "foreign_query": INVALID}
# Instead of a token a signature is asked for, which a query makes invalid.
SIGNED: dict[str, Any] = OPEN | {"foreign_query": BAD_SIGNATURE}

REPORT = {"AccountSid": "account_sid", "MessageSid": "sid", "MessageStatus": "sent"}

ROWS: dict[str, list[Row]] = {
    "listConversations": [
        # Another agency's location is not told from one that does not exist: an empty list.
        Row(own=200, query={"location_id": "location_id"}, foreign_ids=SAME),
    ],
    "getConversation": [Row(own=200, foreign_ids=CONVERSATION_NOT_FOUND)],
    "listMessages": [
        Row(own=200, foreign_ids=CONVERSATION_NOT_FOUND),
        Row(own=200, query={"before": "message_id"}, foreign=frozenset({"before"}), foreign_ids=INVALID),
    ],
    "sendMessage": [Row(own=201, body={"content": "Hi"}, foreign_ids=(403, "conversation_forbidden"))],
    "getMessage": [Row(own=200, foreign_ids=MESSAGE_NOT_FOUND)],
    "resendMessage": [Row(own=200, status="unconfirmed", foreign_ids=MESSAGE_NOT_FOUND)],
    "receiveInboundMessage": [
        Row(
            own=200,
            form={"AccountSid": "account_sid", "To": "To", "From": "phone", "MessageSid": "sid", "Body": "body"},
            foreign_ids=BAD_SIGNATURE,
            **SIGNED,
        ),
    ],
    "receiveMessageStatus": [
        # Another agency's address, signed by one's own account.
        Row(own=200, form=REPORT, foreign=frozenset({"agency_id", "message_id"}), foreign_ids=BAD_SIGNATURE, **SIGNED),
        # One's own address with another agency's message: one that the agency does not have.
        Row(own=200, form=REPORT, foreign=frozenset({"message_id"}), foreign_ids=SAME, **SIGNED),
    ],
    "getHealth": [Row(own=200, foreign_ids=SAME, **OPEN)],
    "getReadiness": [Row(own=200, foreign_ids=SAME, **OPEN)],
}
