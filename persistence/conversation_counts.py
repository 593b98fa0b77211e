"""How many conversations a location has in each status: kept, so that no list has to count them.

Whoever changes a conversation's status, or begins one, changes the count in the same transaction. A row is one location
in one status, which keeps those apart who do it at the same time.
"""

from uuid import UUID

from sqlalchemy import text

from persistence.connection import TenantConnection

FORGET = text("""
    update conversation_counts
    set conversations = 0
    where agency_id = :agency_id
""")

# Read, and then written: Citus would copy what an insert selects. One without a message is counted when it gets one.
COUNT = text("""
    select location_id, status, count(*) as conversations
    from conversations
    where agency_id = :agency_id
    and last_message_at > '-infinity'
    group by location_id, status
""")

REMEMBER = text("""
    insert into conversation_counts (agency_id, location_id, status, conversations)
    values (:agency_id, :location_id, :status, :conversations)
    on conflict (agency_id, location_id, status) do update
    set conversations = excluded.conversations
""")

ADD_ONE = text("""
    insert into conversation_counts (agency_id, location_id, status, conversations)
    values (:agency_id, :location_id, :status, 1)
    on conflict (agency_id, location_id, status) do update
    set conversations = conversation_counts.conversations + 1
""")

TAKE_ONE = text("""
    update conversation_counts
    set conversations = conversations - 1
    where agency_id = :agency_id
    and location_id = :location_id
    and status = :status
""")


def add_one(connection: TenantConnection, *, location_id: UUID, status: str) -> None:
    """A conversation has begun."""
    connection.execute_later(ADD_ONE, location_id=location_id, status=status)


def move_one(connection: TenantConnection, *, location_id: UUID, status: str, from_status: str) -> None:
    """A conversation has another status now."""
    # In the order of their names, so that no two transactions wait for each other.
    steps = [(status, ADD_ONE), (from_status, TAKE_ONE)]
    for name, step in sorted(steps, key=lambda each: each[0]):
        connection.execute_later(step, location_id=location_id, status=name)


def recount(connection: TenantConnection) -> None:
    """Make the agency's counts anew, after conversations were written by other means than ours.

    No conversation may begin or change its status meanwhile.
    """
    counted = connection.execute(COUNT).all()
    connection.execute_later(FORGET)
    for row in counted:
        connection.execute_later(REMEMBER, **row._mapping)
