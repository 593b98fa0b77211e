"""The tenants and who works for them."""

from sqlalchemy import text

from persistence.connection import TenantConnection
from persistence.errors import AgencySuspended

FIND_ROLE = text("""
    select role
    from agency_members
    where agency_id = :agency_id
    and user_id = :user_id
""")

FIND_STATUS = text("""
    select status
    from agencies
    where agency_id = :agency_id
""")

RESENDS_UNCONFIRMED = text("""
    select resend_unconfirmed
    from agencies
    where agency_id = :agency_id
""")


def find_role(connection: TenantConnection, *, user_id: str) -> str | None:
    """The role that the user holds in the bound agency, or None."""
    role: str | None = connection.execute(FIND_ROLE, user_id=user_id).scalar()
    return role


def find_status(connection: TenantConnection) -> str | None:
    """`active` or `suspended`, or None when there is no such agency."""
    status: str | None = connection.execute(FIND_STATUS).scalar()
    return status


def require_active(connection: TenantConnection) -> None:
    """Raise AgencySuspended unless the bound agency exists and may send."""
    if find_status(connection) != "active":
        raise AgencySuspended


def resends_unconfirmed(connection: TenantConnection) -> bool:
    """Whether the agency wants one automatic resend after proof that the carrier never had a message."""
    return bool(connection.execute(RESENDS_UNCONFIRMED).scalar())
