"""Which agency a request acts for, and with which role: the only reader of X-Tenant-ID and tenant_id.

The token names an agency and a role in it. A request may name another one, of which the user must be a member in
the database; the role held there then counts, not the token's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from persistence import agencies
from persistence.connection import TenantConnection
from tenancy.authentication import Claims
from tenancy.errors import RoleForbidden, TenantForbidden, TenantMalformed
from tenancy.transaction import Database, tenant_transaction

READERS: Final = frozenset({"owner", "admin", "manager", "staff", "viewer", "client_viewer"})
SENDERS: Final = frozenset({"owner", "admin", "manager", "staff"})


@dataclass(frozen=True)
class Inbox:
    """An open transaction on one agency's inbox, and who works in it."""

    connection: TenantConnection
    user_id: str
    role: str
    tenant_source: str


@contextmanager
def open_inbox(
    database: Database,
    claims: Claims,
    *,
    header: str | None,
    query: str | None,
    sending: bool = False,
    count: Callable[[UUID, bool], None],
) -> Iterator[Inbox]:
    """Begin the transaction of the agency that the request names, or else the token's; commit at the end.

    `header` is X-Tenant-ID, `query` is tenant_id. `count` is told of each agency for which the request counts, and
    whether it is one that may send; it may raise. Raises TenantMalformed, TenantForbidden and RoleForbidden.
    """
    named = named_agency(header=header, query=query)
    agency_id = named or claims.agency_id
    role: str | None = claims.role
    # What is refused takes no connection. Whoever tries other agencies is counted like everybody.
    count(claims.agency_id, sending and agency_id == claims.agency_id and role in SENDERS)
    with tenant_transaction(database, agency_id, read_only=not sending) as connection:
        if agency_id != claims.agency_id:
            role = agencies.find_role(connection, user_id=claims.user_id)
            if role is None:
                raise TenantForbidden
            count(agency_id, sending and role in SENDERS)
        if role not in (SENDERS if sending else READERS):
            raise RoleForbidden
        yield Inbox(connection, claims.user_id, role, "request" if named else "token")


def named_agency(*, header: str | None, query: str | None) -> UUID | None:
    """The agency that the request names, or None. Raises TenantMalformed when the two places disagree."""
    if header is None and query is None:
        return None
    ids = {UUID(value) for value in (header, query) if value is not None}
    if len(ids) > 1:
        raise TenantMalformed(
            ("X-Tenant-ID", "must name the same agency as tenant_id"),
            ("tenant_id", "must name the same agency as X-Tenant-ID"),
        )
    return ids.pop()
