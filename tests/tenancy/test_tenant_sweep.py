"""Every operation of the contract, asked without a token, with a bad one, and for another agency's things.

Generated from the contract: an operation without a row in `tenant_sweep` fails. After every case the other agency's
rows are what they were, and the answer is the one that a row gets which does not exist.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

import pytest
import yaml

import api as contract_package
from conversations_api.web.contract import Contract, Operation
from delivery import twilio_gateway
from tests.agencies import Agency
from tests.api_client import FORM, PUBLIC_BASE_URL, Answer, Api, new_sid
from tests.handlers.test_webhook_signatures import OWN_TOKEN, own_account
from tests.tenancy.tenant_sweep import ROWS, SAME, Refusal, Row

CONTRACT = Contract.load(contract_package.CONTRACT)
CASES = [(name, number) for name in sorted(ROWS) for number in range(len(ROWS[name]))]
TENANT_TABLES = """
    select relname as name
    from pg_class
    join pg_attribute on attrelid = pg_class.oid
    where relnamespace = 'public'::regnamespace
    and relkind in ('r', 'p')
    and attname = 'agency_id'
"""


@dataclass(frozen=True)
class Tenant:
    """An agency with one of everything, and the ids by which a request names them."""

    agency: Agency
    ids: dict[str, str]


@dataclass(frozen=True)
class Sweep:
    """Mine and a look-alike that is not: the caller belongs to the first and to no other."""

    api: Api
    mine: Tenant
    other: Tenant

    def ask(
        self,
        operation: Operation,
        row: Row,
        ids: dict[str, str],
        *,
        token: str | None = "own",
        header: str | None = None,
        query: str | None = None,
    ) -> Answer:
        path = re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], operation.path)
        parameters = {name: ids[f"query {name}"] for name in row.query} | ({"tenant_id": query} if query else {})
        target = path + ("?" + urlencode(parameters) if parameters else "")
        headers = [("X-Tenant-ID", header)] if header else []
        if token is not None and row.form is None:
            own = self.api.token(self.mine.agency.id, "owner")
            headers.append(("Authorization", "Bearer " + (own if token == "own" else token)))
        if row.form is not None:
            form = [(name, ids.get(f"form {name}", held)) for name, held in row.form.items()]
            headers += [("X-Twilio-Signature", twilio_gateway.sign(PUBLIC_BASE_URL + path, form, OWN_TOKEN))]
            return self.api.ask(
                operation.method, target, headers=[*headers, ("Content-Type", FORM)], body=urlencode(form).encode()
            )
        if row.body is not None:
            headers.append(("Content-Type", "application/json"))
        body = None if operation.method == "GET" else b"" if row.body is None else json.dumps(row.body).encode()
        return self.api.ask(operation.method, target, headers=headers, body=body)

    def ids(self, row: Row, foreign: Callable[[str], str] | None) -> dict[str, str]:
        """What stands in path, query and form: one's own, but for what the row calls foreign."""
        own, found = self.mine.ids, {}
        for name in ("agency_id", "conversation_id", "message_id", "attempt"):
            found[name] = foreign(name) if foreign and name in row.foreign else own[name]
        for place, names in (("query", row.query), ("form", row.form or {})):
            for name, held in names.items():
                is_foreign = foreign is not None and name in row.foreign
                found[f"{place} {name}"] = foreign(held) if foreign and is_foreign else own.get(held, held)
        if "form MessageSid" in found:
            found["form MessageSid"] = new_sid()
        return found


def make_tenant(api: Api) -> Tenant:
    agency = api.new_agency()
    account_sid = own_account(api, agency)
    form = [
        ("AccountSid", account_sid),
        ("To", agency.sms_address),
        ("From", "+12025550199"),
        ("MessageSid", new_sid()),
    ]
    assert api.post_signed("/api/v1/webhooks/twilio/inbound", form, token=OWN_TOKEN).status == 200
    caller = api.of(agency)
    conversation_id = caller.get("/conversations").json["conversations"][0]["id"]
    message_id = caller.send(conversation_id, key=str(uuid4())).json["id"]
    ids = {
        "agency_id": str(agency.id),
        "conversation_id": conversation_id,
        "message_id": message_id,
        "location_id": str(agency.location_id),
        "attempt": "1",
        "account_sid": account_sid,
        "To": agency.sms_address,
        "phone": "+12025550199",
    }
    return Tenant(agency, ids)


@pytest.fixture
def sweep(api: Api) -> Sweep:
    return Sweep(api, make_tenant(api), make_tenant(api))


def state_of(api: Api, agency: Agency) -> dict[str, list[Any]]:
    """Every row that the agency has."""
    tables = [row.name for row in api.sql(agency, TENANT_TABLES)]
    rows = {}
    for name in tables:
        found = api.sql(agency, f"select {name}::text from {name} where agency_id = :agency_id")  # noqa: S608
        rows[name] = sorted(str(row[0]) for row in found)
    assert rows["messages"]
    return rows


@pytest.fixture
def asked(sweep: Sweep, name: str, number: int) -> Iterator[tuple[Operation, Row]]:
    """The operation and its row; the other agency's rows are the same after the test as before."""
    row = ROWS[name][number]
    if row.status is not None:
        for tenant in (sweep.mine, sweep.other):
            sweep.api.sql(tenant.agency, "delete from outbox where agency_id = :agency_id")
            sweep.api.sql(
                tenant.agency,
                "update messages set status = :status where agency_id = :agency_id and id = :message_id",
                status=row.status,
                message_id=UUID(tenant.ids["message_id"]),
            )
    before = state_of(sweep.api, sweep.other.agency)
    yield CONTRACT.operations[name], row
    assert state_of(sweep.api, sweep.other.agency) == before


def nobodys(name: str) -> str:
    """An id in place of a foreign one that nothing has."""
    return "+19995550000" if name == "To" else str(uuid4())


def masked(answer: Answer, ids: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """The answer without what must differ: request id, date, the ids asked for, and what is left of the limits."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "ratelimit")}
    text = answer.body.decode()
    for hidden in (headers.pop("x-request-id"), *ids.values()):
        text = text.replace(hidden, "*") if len(hidden) > 3 else text
    return answer.status, headers, text


def check(answer: Answer, expected: Refusal, row: Row) -> None:
    if expected == SAME:
        assert answer.status == row.own, answer.body
    else:
        assert answer.refusal == expected


def missing_rows(contract: Contract) -> set[str]:
    return {name for name in contract.operations if not ROWS.get(name)}


def test_every_operation_of_the_contract_has_a_row_and_no_other() -> None:
    assert missing_rows(CONTRACT) == set()
    assert set(ROWS) == set(CONTRACT.operations)


def test_an_operation_without_a_row_is_noticed() -> None:
    document = copy.deepcopy(yaml.safe_load(contract_package.CONTRACT.read_text(encoding="utf-8")))
    document["paths"]["/locations"] = {
        "get": document["paths"]["/conversations"]["get"] | {"operationId": "listLocations"}
    }
    assert missing_rows(Contract(document)) == {"listLocations"}


def test_only_the_named_operations_go_without_a_token() -> None:
    document = CONTRACT.document
    assert document["security"] == [{"bearerAuth": []}]
    open_operations = {
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict) and "security" in operation
    }
    assert open_operations == {"receiveInboundMessage", "receiveMessageStatus", "getHealth", "getReadiness"}
    assert {name for name in ROWS if any(row.no_token == SAME for row in ROWS[name])} == open_operations


@pytest.mark.parametrize(("name", "number"), CASES)
class TestOperation:
    """One row at a time."""

    def test_one_of_the_agency_is_served(self, sweep: Sweep, asked: tuple[Operation, Row]) -> None:
        operation, row = asked
        assert sweep.ask(operation, row, sweep.ids(row, None)).status == row.own

    def test_without_a_token(self, sweep: Sweep, asked: tuple[Operation, Row]) -> None:
        operation, row = asked
        answer = sweep.ask(operation, row, sweep.ids(row, None), token=None)
        check(answer, row.no_token, row)
        assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status == 401 else None)

    def test_with_a_bad_token(self, sweep: Sweep, asked: tuple[Operation, Row]) -> None:
        operation, row = asked
        good = sweep.api.token(sweep.mine.agency.id, "owner")
        answers = [
            sweep.ask(operation, row, sweep.ids(row, None), token=bad)
            for bad in ("rubbish", good[:-8] + "AAAAAAAA", good.replace(".", "..", 1), good + ".x")
        ]
        for answer in answers:
            check(answer, row.bad_token, row)
        if row.bad_token != SAME:
            assert len({masked(answer, {})[2] for answer in answers}) == 1

    def test_with_another_agencys_ids(self, sweep: Sweep, asked: tuple[Operation, Row]) -> None:
        operation, row = asked
        ids = sweep.ids(row, lambda held: sweep.other.ids[held])
        answer = sweep.ask(operation, row, ids)
        check(answer, row.foreign_ids, row)
        missing_ids = sweep.ids(row, nobodys)
        missing = sweep.ask(operation, row, missing_ids)
        assert masked(answer, ids) == masked(missing, missing_ids)

    @pytest.mark.parametrize("case", ["foreign_header", "foreign_query"])
    def test_with_another_agency_named(self, sweep: Sweep, asked: tuple[Operation, Row], case: str) -> None:
        operation, row = asked
        place = case.removeprefix("foreign_")
        own_ids = sweep.ids(row, None)
        for ids in (own_ids, sweep.ids(row, lambda held: sweep.other.ids[held])):
            foreign = sweep.ask(operation, row, ids, **{place: sweep.other.ids["agency_id"]})  # type: ignore[arg-type]
            missing = sweep.ask(operation, row, ids, **{place: str(uuid4())})  # type: ignore[arg-type]
            assert masked(foreign, ids) == masked(missing, ids)
            if ids == own_ids or getattr(row, case) != SAME:
                check(foreign, getattr(row, case), row)
