"""What is asked: real ids of the data set, drawn by seeded dice, with the token of the agency that they belong to."""

import json
import random
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from benchmarks.peers.postgraphile import queries
from benchmarks.performance import data_set
from benchmarks.performance.load import Request
from benchmarks.performance.servers import POSTGRAPHILE, Keys
from conversations_api.embedded_postgres.running_postgres import Server as Postgres

MOST_THREADS = 2_000
BASE = "/api/v1"
LIST, MESSAGES = "GET conversations", "GET messages"

AGENCIES = """
    select agency_id
    from agencies
    where name like 'Comparison %'
    order by agency_id
"""

CONVERSATIONS = """
    select conversations.agency_id, conversations.id
    from conversations
    join agencies using (agency_id)
    where name like 'Comparison %'
    order by conversations.id
"""


@dataclass(frozen=True)
class Page:
    """One page as a client wants it: the inbox of an agency, or the newest messages of one conversation."""

    agency_id: UUID
    token: str
    conversation_id: UUID | None = None

    def asked_of(self, server: str) -> Request:
        """The request in the words of this server: the contract's, or a GraphQL query for the same fields."""
        if server == POSTGRAPHILE:
            body = queries.conversations(self.agency_id) if self.conversation_id is None else self._messages_query()
            return Request("POST", "/graphql", self.token, "application/json", body=json.dumps(body))
        path = "/conversations" if self.conversation_id is None else f"/conversations/{self.conversation_id}/messages"
        return Request("GET", BASE + path, self.token)

    def _messages_query(self) -> dict[str, Any]:
        return queries.messages(self.agency_id, self.conversation_id)


def pages(postgres: Postgres, database: str, keys: Keys) -> dict[str, list[Page]]:
    """The first page of every agency's inbox, and the newest messages of many conversations of all agencies."""
    agencies = [agency_id for (agency_id,) in data_set.query(postgres, database, AGENCIES)]
    tokens = {agency_id: keys.token(agency_id) for agency_id in agencies}
    rows = data_set.query(postgres, database, CONVERSATIONS)
    chosen = random.Random(1).sample(rows, min(MOST_THREADS, len(rows)))
    return {
        LIST: [Page(agency_id, tokens[agency_id]) for agency_id in agencies],
        MESSAGES: [Page(agency_id, tokens[agency_id], row_id) for agency_id, row_id in chosen],
    }
