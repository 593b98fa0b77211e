"""The two pages in GraphQL: the same columns and the total, in PostGraphile's names."""

from typing import Any
from uuid import UUID

CONVERSATIONS = """
query ($agency: UUID!, $first: Int!) {
  allConversations(first: $first, condition: {agencyId: $agency}, orderBy: [LAST_MESSAGE_AT_DESC, ID_DESC]) {
    totalCount
    pageInfo { hasNextPage endCursor }
    nodes {
      id locationId contactId status leadStatus leadValue assignedTo lastMessageAt lastMessagePreview
      lastMessageDirection lastInboundAt optedOutAt createdAt updatedAt
      channelByAgencyIdAndChannelId { kind address }
      contactByAgencyIdAndContactId { name phone }
    }
  }
}
"""

MESSAGES = """
query ($agency: UUID!, $conversation: UUID!, $first: Int!) {
  conversationByAgencyIdAndId(agencyId: $agency, id: $conversation) {
    messagesByAgencyIdAndConversationId(first: $first, orderBy: [SENT_AT_DESC, ID_DESC]) {
      pageInfo { hasNextPage endCursor }
      nodes {
        id conversationId direction content media template transcript status errorCode errorMessage duplicateDetected
        twilioSid sentBy sentAt deliveredAt readAt createdAt redactedAt
      }
    }
  }
}
"""


def conversations(agency_id: UUID | str, *, limit: int = 20) -> dict[str, Any]:
    return {"query": CONVERSATIONS, "variables": {"agency": str(agency_id), "first": limit}}


def messages(agency_id: UUID | str, conversation_id: UUID | str | None, *, limit: int = 50) -> dict[str, Any]:
    variables = {"agency": str(agency_id), "conversation": str(conversation_id), "first": limit}
    return {"query": MESSAGES, "variables": variables}


def rows_of(answer: dict[str, Any]) -> tuple[list[dict[str, Any]], int | None]:
    """The rows of either answer, and the total of the list. Raises ValueError when GraphQL reports errors."""
    if "errors" in answer:
        raise ValueError(str(answer["errors"])[:500])
    data = answer["data"]
    if "allConversations" in data:
        return data["allConversations"]["nodes"], data["allConversations"]["totalCount"]
    return data["conversationByAgencyIdAndId"]["messagesByAgencyIdAndConversationId"]["nodes"], None
