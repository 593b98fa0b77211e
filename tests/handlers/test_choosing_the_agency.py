"""X-Tenant-ID and tenant_id: the token's agency, or another one that the user is a member of; nothing in between."""

from uuid import UUID, uuid4

import pytest

from tests.agencies import Agency
from tests.api_client import BASE_PATH, Answer, Api

MEMBER = "user_of_two"


@pytest.fixture
def mine(api: Api) -> Agency:
    agency = api.new_agency()
    api.converse(agency, "mine")
    return agency


@pytest.fixture
def other(api: Api) -> Agency:
    """An agency in which MEMBER is a manager."""
    agency = api.new_agency()
    api.converse(agency, "theirs")
    make_member(api, agency, "manager")
    return agency


def make_member(api: Api, agency: Agency, role: str) -> None:
    api.sql(
        agency,
        """insert into agency_members (agency_id, user_id, role) values (:agency_id, :user_id, :role)
        on conflict (agency_id, user_id) do update set role = :role""",
        user_id=MEMBER,
        role=role,
    )


def previews(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [conversation["last_message_preview"] for conversation in answer.json["conversations"]]


def test_without_a_choice_it_is_the_tokens_agency(api: Api, mine: Agency, other: Agency) -> None:
    assert previews(api.of(mine, user_id=MEMBER).get("/conversations")) == ["mine"]


def test_the_header_the_query_or_both_choose(api: Api, mine: Agency, other: Agency) -> None:
    me, chosen = api.of(mine, user_id=MEMBER), str(other.id)
    header = [("X-Tenant-ID", chosen)]
    assert previews(me.get("/conversations", headers=header)) == ["theirs"]
    assert previews(me.get("/conversations", tenant_id=chosen)) == ["theirs"]
    assert previews(me.get("/conversations", headers=header, tenant_id=chosen)) == ["theirs"]


def test_ones_own_agency_may_be_named(api: Api, mine: Agency) -> None:
    me = api.of(mine)
    own = str(mine.id)
    assert previews(me.get("/conversations", headers=[("X-Tenant-ID", own)], tenant_id=own)) == ["mine"]


def test_letter_case_does_not_matter(api: Api, mine: Agency, other: Agency) -> None:
    me, chosen = api.of(mine, user_id=MEMBER), str(other.id)
    answer = me.get("/conversations", headers=[("x-TENANT-id", chosen.upper())], tenant_id=chosen)
    assert previews(answer) == ["theirs"]


def test_the_role_held_there_counts_and_not_the_tokens(api: Api, mine: Agency, other: Agency) -> None:
    conversation = api.converse(other)
    header = [("X-Tenant-ID", str(other.id))]
    assert api.of(mine, "viewer", MEMBER).send(conversation, headers=header).status == 201
    make_member(api, other, "viewer")
    owner_here = api.of(mine, "owner", MEMBER)
    assert owner_here.send(conversation, headers=header).refusal == (403, "role_forbidden")
    assert owner_here.get(f"/conversations/{conversation}", headers=header).status == 200


def test_a_removed_member_is_refused_at_once(api: Api, mine: Agency, other: Agency) -> None:
    me, header = api.of(mine, user_id=MEMBER), [("X-Tenant-ID", str(other.id))]
    assert me.get("/conversations", headers=header).status == 200
    api.sql(other, "delete from agency_members where agency_id = :agency_id and user_id = :user_id", user_id=MEMBER)
    assert me.get("/conversations", headers=header).refusal == (403, "tenant_forbidden")


def test_membership_does_not_depend_on_the_spelling_of_the_user(api: Api, mine: Agency, other: Agency) -> None:
    header = [("X-Tenant-ID", str(other.id))]
    for user_id in (MEMBER.upper(), MEMBER + "x", "user_of_tw_", "%", "1"):
        answer = api.of(mine, user_id=user_id).get("/conversations", headers=header)
        assert answer.refusal == (403, "tenant_forbidden")


@pytest.mark.parametrize("place", ["header", "query"])
def test_an_agency_one_does_not_belong_to_is_forbidden_like_one_that_does_not_exist(
    api: Api, mine: Agency, place: str
) -> None:
    stranger = api.new_agency()
    conversation = api.converse(stranger)

    def ask(agency_id: UUID) -> list[Answer]:
        me = api.of(mine)
        headers = [("X-Tenant-ID", str(agency_id))] if place == "header" else []
        query = {"tenant_id": str(agency_id)} if place == "query" else {}
        suffix = f"?tenant_id={agency_id}" if place == "query" else ""
        return [
            me.get("/conversations", headers=headers, **query),
            me.get(f"/conversations/{conversation}", headers=headers, **query),
            me.get(f"/conversations/{conversation}/messages", headers=headers, **query),
            me.get(f"/messages/{uuid4()}", headers=headers, **query),
            me.post(f"/conversations/{conversation}/messages{suffix}", {"content": "x"}, headers=headers),
            me.post(f"/messages/{uuid4()}/resend{suffix}", headers=headers),
        ]

    for answer in ask(stranger.id) + ask(uuid4()) + ask(UUID(int=0)):
        assert answer.refusal == (403, "tenant_forbidden")


def test_header_and_query_that_disagree_are_400(api: Api, mine: Agency, other: Agency) -> None:
    me = api.of(mine, user_id=MEMBER)
    answer = me.get("/conversations", headers=[("X-Tenant-ID", str(mine.id))], tenant_id=other.id)
    assert answer.refusal == (400, "invalid_request")
    assert set(answer.errors) == {"X-Tenant-ID", "tenant_id"}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "{{{id}}}",
        "{id},{id}",
        "{id} {id}",
        "urn:uuid:{id}",
        "{short}",
        "{id}x",
        "{id}\x01",
        "0x{short}",
        "null",
        "a" * 10_000,
        "{id}'--",
        "\xe9",
    ],
)
@pytest.mark.parametrize("place", ["header", "query"])
def test_anything_but_a_uuid_is_400(api: Api, place: str, value: str) -> None:
    agency = api.new_agency()
    me = api.of(agency)
    named = value.replace("{short}", agency.id.hex).replace("{id}", str(agency.id))
    if place == "query":
        # A target of more than 8 KB is refused as a whole.
        field = "query" if len(named) > 8192 else "tenant_id"
        answer = me.get("/conversations", tenant_id=named)
    else:
        field = "X-Tenant-ID"
        answer = me.get("/conversations", headers=[("X-Tenant-ID", named)])
    assert answer.refusal == (400, "invalid_request")
    # With a control character in a header it is no HTTP, and nobody has read which header it was.
    assert list(answer.errors) == ([] if place == "header" and not named.isprintable() else [field])


@pytest.mark.parametrize("name", ["X-Tenant-ID", "X_Tenant_ID", "X-Tenant_ID", "x_tenant-id"])
def test_a_header_given_twice_or_in_disguise_is_400(api: Api, mine: Agency, name: str) -> None:
    me, own = api.of(mine), str(mine.id)
    twice = me.get("/conversations", headers=[("X-Tenant-ID", own), (name, own)])
    assert twice.refusal == (400, "invalid_request")
    if name != "X-Tenant-ID":
        assert me.get("/conversations", headers=[(name, own)]).refusal == (400, "invalid_request")


def test_a_query_given_twice_is_400(api: Api, mine: Agency) -> None:
    me, own = api.of(mine), str(mine.id)
    target = f"{BASE_PATH}/conversations?tenant_id={own}&tenant_id={own}"
    answer = api.ask("GET", target, headers=[("Authorization", f"Bearer {me.token}")])
    assert answer.refusal == (400, "invalid_request")
    assert list(answer.errors) == ["tenant_id"]


@pytest.mark.parametrize("name", ["agency_id", "org_id", "X-Tenant-ID", "Tenant_ID", "tenant-id", "x_tenant_id"])
def test_no_other_parameter_chooses(api: Api, mine: Agency, other: Agency, name: str) -> None:
    answer = api.of(mine, user_id=MEMBER).get("/conversations", **{name: other.id})
    assert answer.refusal == (400, "invalid_request")
    assert list(answer.errors) == [name]


@pytest.mark.parametrize("name", ["X-Agency-ID", "Tenant-ID", "X-Org-ID", "X-Original-URL", "X-HTTP-Method-Override"])
def test_no_other_header_chooses(api: Api, mine: Agency, other: Agency, name: str) -> None:
    answer = api.of(mine, user_id=MEMBER).get("/conversations", headers=[(name, str(other.id))])
    assert previews(answer) == ["mine"]


def test_sending_for_another_agency_is_recorded_there_and_only_there(api: Api, mine: Agency, other: Agency) -> None:
    conversation = api.converse(other)
    me = api.of(mine, user_id=MEMBER)
    assert me.send(conversation, headers=[("X-Tenant-ID", str(other.id))]).json["sent_by"] == MEMBER
    query = "select user_id, role, tenant_source from audit_records where agency_id = :agency_id"
    assert [tuple(row) for row in api.sql(other, query)] == [(MEMBER, "manager", "request")]
    assert api.sql(mine, query) == []
