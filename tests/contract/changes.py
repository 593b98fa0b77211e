"""Tells what a change of the contract means to clients that were built before it: nothing, something more, or a break.

Only what the introduction promises as an addition passes as one ("Versions and deprecation"); every difference that is
not known to be harmless counts as breaking. References are followed, so that it is the meaning that is compared, and
names count where generated clients are named after them: operations, tags, schemas.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.contract.document import Node, inline, operations, parameters, resolve

BREAKING, ADDITIVE = "breaking", "additive"
REQUEST, RESPONSE = "request", "response"

# For people; whatever they say, programs do not read it.
_WORDS = frozenset({"description", "summary", "title", "example", "examples", "externalDocs"})
_LOWER_BOUNDS = frozenset({"minLength", "minimum", "minItems", "minProperties"})
_UPPER_BOUNDS = frozenset({"maxLength", "maximum", "maxItems", "maxProperties"})
_WALKED = frozenset({"properties", "required", "enum", "nullable", "items", "additionalProperties", "deprecated"})
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One difference; `where` is a place that an editor of the contract finds."""

    kind: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def changes(old: Node, new: Node) -> list[Change]:
    """Every difference that a program could notice, each once."""
    return list(dict.fromkeys([*_documents(old, new), *_operations(old, new)]))


def _documents(old: Node, new: Node) -> Iterator[Change]:
    if old["openapi"] != new["openapi"]:
        yield Change(BREAKING, "openapi", f"became {new['openapi']}: tools that read the old version may refuse it")
    if [server["url"] for server in old["servers"]] != [server["url"] for server in new["servers"]]:
        yield Change(BREAKING, "servers", "the API moved")
    for name in old["components"]["schemas"]:
        if name not in new["components"]["schemas"]:
            yield Change(
                BREAKING, f"schema {name}", "was removed or renamed: generated clients have a type of that name"
            )
    if _facts(old["components"]["securitySchemes"]) != _facts(new["components"]["securitySchemes"]):
        yield Change(BREAKING, "securitySchemes", "were changed")


def _operations(old: Node, new: Node) -> Iterator[Change]:
    before = {operation.where: operation for operation in operations(old)}
    after = {operation.where: operation for operation in operations(new)}
    for where, operation in before.items():
        if where not in after:
            yield Change(BREAKING, where, "was removed")
            continue
        was, now = operation.node, after[where].node
        for name in ("operationId", "tags"):
            if was[name] != now[name]:
                yield Change(BREAKING, where, f"{name} was changed: generated clients are named after it")
        if was.get("security", old["security"]) != now.get("security", new["security"]):
            yield Change(BREAKING, where, "asks for other credentials")
        if now.get("deprecated") and not was.get("deprecated"):
            yield Change(ADDITIVE, where, "was deprecated")
        yield from _parameters(where, parameters(old, operation), parameters(new, after[where]), old, new)
        yield from _request_bodies(where, _body(old, was), _body(new, now))
        yield from _responses(where, inline(old, was["responses"]), inline(new, now["responses"]))
    for where in after.keys() - before.keys():
        yield Change(ADDITIVE, where, "was added")


def _parameters(where: str, was: list[Node], now: list[Node], old: Node, new: Node) -> Iterator[Change]:
    before = {(each["in"], each["name"]): inline(old, each) for each in was}
    after = {(each["in"], each["name"]): inline(new, each) for each in now}
    for key, parameter in before.items():
        place = f"{where} {key[0]} parameter {key[1]}"
        if key not in after:
            yield Change(BREAKING, place, "was removed: requests that send it are refused")
            continue
        yield from _must_be_sent(place, parameter.get("required", False), after[key].get("required", False))
        if {"style", "explode", "content"} & (parameter.keys() | after[key].keys()):
            yield Change(BREAKING, place, "is written in another way than any before")
        else:
            yield from _schemas(place, parameter["schema"], after[key]["schema"], REQUEST)
    for key in after.keys() - before.keys():
        place = f"{where} {key[0]} parameter {key[1]}"
        required = after[key].get("required", False)
        yield Change(BREAKING if required else ADDITIVE, place, f"was added{', and is required' if required else ''}")


def _request_bodies(where: str, was: Node | None, now: Node | None) -> Iterator[Change]:
    place = f"{where} request body"
    if was is None or now is None:
        if now is not None:
            required = now.get("required", False)
            yield Change(BREAKING if required else ADDITIVE, place, "was added")
        elif was is not None:
            yield Change(BREAKING, place, "was removed")
        return
    yield from _must_be_sent(place, was.get("required", False), now.get("required", False))
    for media_type in was["content"].keys() | now["content"].keys():
        if media_type not in now["content"]:
            yield Change(BREAKING, place, f"{media_type} is not taken any more")
        elif media_type not in was["content"]:
            yield Change(ADDITIVE, place, f"{media_type} is taken too")
        else:
            schemas = was["content"][media_type]["schema"], now["content"][media_type]["schema"]
            yield from _schemas(place, *schemas, REQUEST)


def _must_be_sent(place: str, was: bool, now: bool) -> Iterator[Change]:
    if now and not was:
        yield Change(BREAKING, place, "is required now")
    elif was and not now:
        yield Change(ADDITIVE, place, "is not required any more")


def _responses(where: str, was: Node, now: Node) -> Iterator[Change]:
    for status in sorted(was.keys() | now.keys()):
        place = f"{where} {status}"
        if status not in now:
            yield Change(BREAKING, place, "was removed")
        elif status not in was:
            yield Change(BREAKING, place, "was added: clients that were generated before do not know this answer")
        else:
            yield from _headers(place, was[status].get("headers", {}), now[status].get("headers", {}))
            before, after = was[status].get("content", {}), now[status].get("content", {})
            if before.keys() != after.keys():
                yield Change(BREAKING, place, f"is answered as {', '.join(after) or 'nothing'}")
            for media_type in before.keys() & after.keys():
                yield from _schemas(place, before[media_type]["schema"], after[media_type]["schema"], RESPONSE)


def _headers(place: str, was: Node, now: Node) -> Iterator[Change]:
    for name in was:
        if name not in now:
            yield Change(BREAKING, place, f"the header {name} was removed")
            continue
        if was[name].get("required") and not now[name].get("required"):
            yield Change(BREAKING, place, f"the header {name} is not always there any more")
        yield from _schemas(f"{place} header {name}", was[name]["schema"], now[name]["schema"], RESPONSE)
    for name in now.keys() - was.keys():
        yield Change(ADDITIVE, place, f"the header {name} was added")


def _schemas(place: str, was: Node, now: Node, side: str) -> Iterator[Change]:
    """The differences of one schema and of every schema in it. Neither holds a reference."""
    yield from _values(place, was, now, side)
    yield from _properties(place, was, now, side)
    yield from _enums(place, was.get("enum"), now.get("enum"), side)
    if bool(was.get("nullable")) != bool(now.get("nullable")):
        yield _wider_or_narrower(place, side, wider=bool(now.get("nullable")), what="null")
    for keyword in ("items", "additionalProperties"):
        before, after = was.get(keyword, _ABSENT), now.get(keyword, _ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _schemas(f"{place}{'[]' if keyword == 'items' else '.*'}", before, after, side)
        elif keyword == "additionalProperties" and (before, side) == (False, REQUEST) and after != before:
            yield Change(ADDITIVE, place, "other properties are taken too")
        elif before != after:
            yield Change(BREAKING, place, f"{keyword} was changed")
    if now.get("deprecated") and not was.get("deprecated"):
        yield Change(ADDITIVE, place, "was deprecated")


def _values(place: str, was: Node, now: Node, side: str) -> Iterator[Change]:
    """Keywords that bound a value, and those of which nothing is known but that they changed."""
    before, after = _facts(was), _facts(now)
    for keyword in sorted((before.keys() | after.keys()) - _WALKED):
        old, new = before.get(keyword), after.get(keyword)
        if old == new:
            continue
        if keyword in _LOWER_BOUNDS | _UPPER_BOUNDS:
            less = new is not None and (old is None or (new < old if keyword in _UPPER_BOUNDS else new > old))
            yield _wider_or_narrower(place, side, wider=not less, what=keyword)
        elif keyword == "pattern" and (old is None or new is None):
            yield _wider_or_narrower(place, side, wider=new is None, what=keyword)
        else:
            yield Change(BREAKING, place, f"{keyword} was {_shown(old)} and became {_shown(new)}")


def _properties(place: str, was: Node, now: Node, side: str) -> Iterator[Change]:
    before, after = was.get("properties", {}), now.get("properties", {})
    must_before, must_after = set(was.get("required", [])), set(now.get("required", []))
    for name in before:
        if name not in after:
            yield Change(BREAKING, f"{place}.{name}", "was removed")
            continue
        if name in must_after - must_before:
            kind = BREAKING if side == REQUEST else ADDITIVE
            yield Change(kind, f"{place}.{name}", "must be sent now" if side == REQUEST else "is always there now")
        if name in must_before - must_after:
            kind = ADDITIVE if side == REQUEST else BREAKING
            what = "may be left out now" if side == REQUEST else "is not always there any more"
            yield Change(kind, f"{place}.{name}", what)
        yield from _schemas(f"{place}.{name}", before[name], after[name], side)
    for name in after.keys() - before.keys():
        required = side == REQUEST and name in must_after
        yield Change(
            BREAKING if required else ADDITIVE, f"{place}.{name}", "was added" + ", and is required" * required
        )


def _enums(place: str, was: list[Any] | None, now: list[Any] | None, side: str) -> Iterator[Change]:
    if was is None or now is None:
        if was is not now:
            yield _wider_or_narrower(place, side, wider=now is None, what="the list of values")
        return
    for value in was:
        if value not in now:
            yield Change(BREAKING, place, f"the value {value} was removed")
    for value in now:
        if value not in was:
            if side == REQUEST:
                yield Change(ADDITIVE, place, f"the value {value} was added")
            else:
                yield Change(
                    BREAKING, place, f"the value {value} was added: generated clients refuse values they do not know"
                )


def _wider_or_narrower(place: str, side: str, *, wider: bool, what: str) -> Change:
    """What is sent to us may be bounded less, what we answer may be bounded more; the other way round breaks."""
    if side == REQUEST:
        return Change(ADDITIVE if wider else BREAKING, place, f"{what}: {'more' if wider else 'less'} is accepted")
    return Change(BREAKING if wider else ADDITIVE, place, f"{what}: {'more' if wider else 'less'} can be answered")


def _body(document: Node, operation: Node) -> Node | None:
    if "requestBody" not in operation:
        return None
    body: Node = inline(document, resolve(document, operation["requestBody"]))
    return body


def _facts(node: Any) -> Any:
    """Without what only people read, and without our own notes."""
    if isinstance(node, dict):
        return {name: value for name, value in node.items() if name not in _WORDS and not name.startswith("x-")}
    return node


def _shown(value: Any) -> str:
    return "absent" if value is None else repr(value)


def objections(released: Node, current: Node, changelog: str) -> list[str]:
    """What keeps `current` from following `released`, in sentences for whoever changed it; empty where nothing does."""
    found = changes(released, current)
    said = [f"BREAKING {line}" for line in _grouped([each for each in found if each.kind == BREAKING])]
    was, now = (_version(document) for document in (released, current))
    additions = [each for each in found if each.kind == ADDITIVE]
    if additions:
        least = (was[0], was[1] + 1, 0)
    elif _without_version(released) != _without_version(current):
        least = (was[0], was[1], was[2] + 1)
    else:
        least = was
    if now < least:
        reasons = _grouped(additions) or ["its words were changed"]
        said.append(f"info.version must be {_dotted(least)} at least, because: " + "; ".join(reasons))
    if now[0] != was[0]:
        said.append(
            f"info.version {_dotted(now)}: another major version is another path beside /api/v1, not a change of it"
        )
    if f"\n## {_dotted(now)}\n" not in changelog:
        said.append(f"CHANGELOG.md has no section '## {_dotted(now)}' that tells what changed")
    return said


def _grouped(found: list[Change]) -> list[str]:
    """One line for the same change of the same property, which is seen wherever its schema is used."""
    places: dict[tuple[str, str], list[Change]] = {}
    for each in found:
        places.setdefault((each.where.partition(".")[2] or each.where, each.what), []).append(each)
    return [
        str(first) + (f" (and in {len(others)} other places)" if others else "") for first, *others in places.values()
    ]


def _version(document: Node) -> tuple[int, int, int]:
    major, minor, patch = (int(part) for part in document["info"]["version"].split("."))
    return major, minor, patch


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))


def _without_version(document: Node) -> Node:
    return {**document, "info": {**document["info"], "version": ""}}
