# ruff: noqa: S608 - statements are put together from the names of our own tables
"""The schema damaged in one way at a time, by whoever might: a migration, an operator, a helpful colleague.

Each damage is SQL that a superuser runs in a transaction of its own. It is done before the look-alike rows are stored,
except where `after` says that it needs them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.tenancy.rls import rows
from tests.tenancy.rls.probes import key_of

EXPRESSION = "agency_id = nullif(current_setting('app.agency_id', true), '')::uuid"


@dataclass(frozen=True)
class Mutant:
    """A damage, the table that it is done to, and whether the lint is able to see it in the catalogue."""

    name: str
    table: str | None
    damage: str
    after: bool = False
    # Rows with the same keys in several agencies stand in the way of some damages; others need to be caught by them.
    kinds: tuple[str, ...] = rows.STORED
    lint_sees_it: bool = True
    # Seen under a binding, and then best by those that come first, before any was ever set.
    of_policy: bool = False

    def __str__(self) -> str:
        return self.name


def mutants() -> list[Mutant]:
    return [
        *(mutant for table in rows.RIGHTS for mutant in of_policy(table)),
        *(mutant for table in rows.RIGHTS for mutant in of_grants(table)),
        *of_keys(),
        *of_references(),
        *of_routing(),
        *of_roles(),
        *of_objects(),
    ]


def of_policy(table: str) -> Iterator[Mutant]:
    damages = {
        "row-level security is off": "alter table {t} disable row level security",
        "FORCE is dropped": "alter table {t} no force row level security",
        "the policy is dropped": "drop policy tenant on {t}",
        "USING (true)": "alter policy tenant on {t} using (true)",
        "WITH CHECK (true)": "alter policy tenant on {t} with check (true)",
        "a helper policy lets everybody read": "create policy helper on {t} for select using (true)",
        "a helper policy lets everybody write": "create policy helper on {t} for insert with check (true)",
        "an agency that is not bound sees all": (
            "alter policy tenant on {t} using (coalesce(" + EXPRESSION + ", true))"
        ),
        "the empty binding is an error": (
            "alter policy tenant on {t} using (agency_id = current_setting('app.agency_id', true)::uuid)"
        ),
        "the setting that was never set is an error": (
            "alter policy tenant on {t} using (agency_id = nullif(current_setting('app.agency_id'), '')::uuid)"
        ),
        "the policy reads another setting": (
            "alter policy tenant on {t} using (agency_id = nullif(current_setting('app.tenant_id', true), '')::uuid)"
        ),
        "the policy is for reading only": (
            "drop policy tenant on {t}; create policy tenant on {t} for select using (" + EXPRESSION + ")"
        ),
        "the policy is restrictive, and nothing permits": (
            "drop policy tenant on {t}; create policy tenant on {t} as restrictive using (" + EXPRESSION + ")"
        ),
        "the policy is for the application only": "alter policy tenant on {t} to faro_app",
    }
    for name, damage in damages.items():
        yield Mutant(f"{table}: {name}", table, damage.format(t=table), of_policy=True)


def of_grants(table: str) -> Iterator[Mutant]:
    for right in ("truncate", "references", "trigger", "update (agency_id)", "all"):
        yield Mutant(f"{table}: {right} is granted to the application", table, f"grant {right} on {table} to faro_app")
    yield Mutant(f"{table}: everybody may read it", table, f"grant select on {table} to public")


def of_keys() -> Iterator[Mutant]:
    """Every unique index without its agency_id, as a migration that forgot it would make it."""
    for table in rows.RIGHTS:
        rest = ", ".join(name for name in key_of(table) if name != "agency_id")
        if rest:
            yield Mutant(
                f"{table}: the primary key leaves the agency out",
                table,
                f"alter table {table} drop constraint {table}_pkey cascade;"
                f" alter table {table} add primary key ({rest})",
            )
    others = {
        "channels": ("constraint channels_agency_id_account_sid_kind_address_key", "account_sid, kind, address"),
        "contacts": ("constraint contacts_agency_id_phone_key", "phone"),
        "conversations": ("constraint conversations_agency_id_channel_id_contact_id_key", "channel_id, contact_id"),
        "messages": ("constraint messages_agency_id_twilio_sid_key", "twilio_sid"),
        "provider_events": (
            "constraint provider_events_agency_id_message_id_twilio_sid_provider_st_key",
            "message_id, twilio_sid, provider_status, error_code",
        ),
    }
    for table, (name, rest) in others.items():
        yield Mutant(
            f"{table}: unique ({rest}) leaves the agency out",
            table,
            f"alter table {table} drop {name}; create unique index on {table} ({rest})",
        )
    yield Mutant(
        "outbox: one message in flight per conversation of whomever",
        "outbox",
        "drop index outbox_one_in_flight;"
        " create unique index on outbox (conversation_id) where state in ('queued', 'calling', 'unknown')",
    )


def of_references() -> Iterator[Mutant]:
    for (child, column), parent in rows.REFERENCES.items():
        name = "number_routing_channel" if child == "number_routing" else f"{child}_agency_id_{column}_fkey"
        yield Mutant(
            f"{child}.{column}: the foreign key leaves the agency out",
            child,
            f"alter table {child} drop constraint {name}; create unique index {parent}_by_id on {parent} (id);"
            f" alter table {child} add foreign key ({column}) references {parent} (id)",
            kinds=("own",),
        )
        yield Mutant(
            f"{child}.{column}: the foreign key is dropped",
            child,
            f"alter table {child} drop constraint {name}",
            lint_sees_it=False,
        )
        yield Mutant(
            f"{child}.{column}: the foreign key is switched off", child, f"alter table {child} disable trigger all"
        )


def of_routing() -> Iterator[Mutant]:
    drop = "alter table number_routing drop constraint number_routing_pkey"
    damages = {
        "the primary key is dropped": drop,
        "an address is unique within its agency only": (
            f"{drop}; alter table number_routing add primary key (agency_id, account_sid, address)"
        ),
        "the primary key is checked at the end": f"{drop}; alter table number_routing"
        " add primary key (account_sid, address) deferrable initially deferred",
        "the application may claim numbers": "grant insert on number_routing to faro_app",
        "the application may move numbers": "grant update on number_routing to faro_app",
        "the worker may release numbers": "grant delete on number_routing to faro_worker",
    }
    for name, damage in damages.items():
        yield Mutant(f"number_routing: {name}", "number_routing", damage)


def of_roles() -> Iterator[Mutant]:
    damages = {
        "the application has BYPASSRLS": "alter role faro_app bypassrls",
        "the worker has BYPASSRLS": "alter role faro_worker bypassrls",
        "the application is a superuser": "alter role faro_app superuser",
        "the application is a member of the owner": "grant faro_owner to faro_app",
        "the application is a member of the worker": "grant faro_worker to faro_app",
        "the application reads all data": "grant pg_read_all_data to faro_app",
        "the worker writes all data": "grant pg_write_all_data to faro_worker",
        "the worker owns a table": "alter table messages owner to faro_worker",
        "the application may rewrite the audit": "grant update, delete on audit_records to faro_app",
        "the application may read the audit": "grant select on audit_records to faro_app",
        "the application may create tables": "grant create on schema public to faro_app",
        "everybody may create tables": "grant create on schema public to public",
        "the application may create temporary tables": (
            "do $$ begin execute format('grant temporary on database %I to faro_app', current_database()); end $$"
        ),
        "the application may create schemas": (
            "do $$ begin execute format('grant create on database %I to faro_app', current_database()); end $$"
        ),
        "new tables are open to the application": (
            "alter default privileges for role faro_owner grant select on tables to faro_app"
        ),
        "new tables are open to everybody": (
            "alter default privileges for role faro_owner grant select on tables to public"
        ),
        "new functions are open to everybody": (
            "alter default privileges for role faro_owner grant execute on functions to public"
        ),
        "the worker's view of the outbox is everybody's": "alter policy worker on outbox to public",
        "the worker's view of the outbox is gone": "drop policy worker on outbox",
        "the worker sees the outbox of the bound agency only": "alter policy worker on outbox using ("
        + EXPRESSION
        + ")",
    }
    for name, damage in damages.items():
        yield Mutant(name, None, damage)


def of_objects() -> Iterator[Mutant]:
    function = "create function everything() returns setof messages language sql stable"
    damages = {
        "a superuser's view": "create view recent as select * from messages; grant select on recent to faro_app",
        "the owner's view": (
            "set local role faro_owner; create view recent as select * from messages;"
            " grant select on recent to faro_app; reset role"
        ),
        "a view with the reader's rights": (
            "create view recent with (security_invoker = true) as select * from messages;"
            " grant select on recent to faro_app"
        ),
        "a materialised view": (
            "create materialized view recent as select * from messages; grant select on recent to faro_app"
        ),
        "a superuser's SECURITY DEFINER function": (
            f"{function} security definer as 'select * from messages'; grant execute on function everything to faro_app"
        ),
        "the owner's SECURITY DEFINER function": (
            f"set local role faro_owner; {function} security definer as 'select * from messages';"
            " grant execute on function everything to faro_app; reset role"
        ),
        "a function": f"{function} as 'select * from messages'",
        "a SECURITY DEFINER function in another schema": (
            "create schema reports; grant usage on schema reports to faro_app; create function reports.everything()"
            " returns setof public.messages language sql security definer as 'select * from public.messages'"
        ),
        "a copy in another schema": (
            "create schema reports; grant usage on schema reports to faro_app;"
            " create table reports.messages as select * from messages; grant select on reports.messages to faro_app"
        ),
        "a table without an agency": "create table notes (said text); grant select on notes to faro_app",
        "a table without row-level security": (
            "create table notes (agency_id uuid not null, id uuid, primary key (agency_id, id));"
            " grant select on notes to faro_app"
        ),
        "a serial column": (
            "alter table messages add column number bigserial;"
            " grant usage, select on sequence messages_number_seq to faro_app"
        ),
        "a partition that can be read past its parent": (
            "create table notes (agency_id uuid not null, id uuid, primary key (agency_id, id))"
            " partition by list (agency_id); create table notes_default partition of notes default;"
            " grant select on notes_default to faro_app"
        ),
        "a child table": (
            "create table messages_of_2025 () inherits (messages); grant select on messages_of_2025 to faro_app"
        ),
        "a trigger that mixes in what others wrote": (
            "create function mix() returns trigger language plpgsql security definer as"
            " $$ begin new.content = (select coalesce(string_agg(content, ' '), '') from messages); return new; end $$;"
            " revoke execute on function mix from public;"
            " create trigger mix before insert on messages for each row execute function mix()"
        ),
        "a trigger that keeps nothing": (
            "create trigger nothing before update on messages for each row"
            " execute function suppress_redundant_updates_trigger()"
        ),
        "a rule that does nothing instead": "create rule nothing as on update to messages do instead nothing",
    }
    for name, damage in damages.items():
        yield Mutant(name, "messages", damage, after="materialized" in damage or "as select" in damage)
