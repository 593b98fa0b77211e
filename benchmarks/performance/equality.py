"""Before anything is timed: every peer answers the same JSON as ours, field by field.

Spellings of one instant (`Z` and `+00:00`, zeros at the end) count as the same. PostGraphile's JSON has another shape;
there the same rows in the same order with the same words and times have to come out, and the same total.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.postgraphile import queries
from benchmarks.performance import servers
from benchmarks.performance.asked import Page
from benchmarks.performance.load import Request
from benchmarks.performance.servers import OURS, POSTGRAPHILE, Running

# PostGraphile's name -> the contract's, of what tells two rows apart.
COLUMNS = {
    "conversations": {
        "id": "id",
        "status": "status",
        "lastMessageAt": "last_message_at",
        "lastMessagePreview": "last_message_preview",
        "assignedTo": "assigned_to",
    },
    "messages": {
        "id": "id",
        "content": "content",
        "status": "status",
        "sentAt": "sent_at",
        "media": "media",
        "twilioSid": "twilio_sid",
    },
}


TIME = re.compile(r'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(?:Z|\+00:00)"')


class AnswersDiffer(Exception):
    """A peer does not do the same work as ours; the message says which, and where they part."""


def check(running: Mapping[str, Running], pages: Sequence[Page]) -> int:
    """The number of answers that were compared. Raises AnswersDiffer."""
    compared = 0
    for page in pages:
        ours = ask(running[OURS], page.asked_of(OURS))
        if not (ours.get("conversations") or ours.get("messages")):
            raise AnswersDiffer(f"ours answers an empty page for {page.asked_of(OURS).path}")
        for name, server in running.items():
            if name == OURS:
                continue
            theirs = ask(server, page.asked_of(name))
            difference = _rows_differ(ours, theirs) if name == POSTGRAPHILE else differ(ours, theirs)
            if difference:
                raise AnswersDiffer(f"{name}, {page.asked_of(OURS).path}: {difference}")
            compared += 1
    return compared


def ask(server: Running, request: Request) -> Any:
    """The parsed answer of one request, with all times in one spelling. Raises httpx.HTTPStatusError."""
    headers = {"Authorization": f"Bearer {request.token}"}
    if request.content_type:
        headers["Content-Type"] = request.content_type
    answer = servers.HTTP.request(
        request.method, server.base_url + request.path, headers=headers, content=request.body.encode() or None
    )
    answer.raise_for_status()
    return json.loads(one_spelling(answer.text))


def one_spelling(text: str) -> str:
    """JSON with each time in UTC written with `Z`, and its fraction without zeros at the end."""
    return TIME.sub(lambda found: f'"{found[1]}{(found[2] or "").rstrip("0").rstrip(".")}Z"', text)


def differ(ours: Any, theirs: Any, place: str = "$") -> str | None:
    """Where two JSON values part first, or None."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return f"{place}: {sorted(ours.keys() ^ theirs.keys())} on one side only"
        pairs = [(ours[key], theirs[key], f"{place}.{key}") for key in ours]
    elif isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return f"{place}: {len(ours)} and {len(theirs)} elements"
        pairs = [(a, b, f"{place}[{number}]") for number, (a, b) in enumerate(zip(ours, theirs, strict=True))]
    else:
        # JSON has one kind of number: 101 and 101.0 are the same one. True is none.
        same = isinstance(ours, bool) == isinstance(theirs, bool) and ours == theirs
        return None if same else f"{place}: {ours!r} and {theirs!r}"
    return next(filter(None, (differ(a, b, inner) for a, b, inner in pairs)), None)


def _rows_differ(ours: dict[str, Any], answer: dict[str, Any]) -> str | None:
    rows, total = queries.rows_of(answer)
    kind = "conversations" if "conversations" in ours else "messages"
    if kind == "conversations" and total != ours["total"]:
        return f"the total is {ours['total']} and {total}"
    mapped = [{name: row[key] for key, name in COLUMNS[kind].items()} for row in rows]
    return differ([{name: row[name] for name in COLUMNS[kind].values()} for row in ours[kind]], mapped)
