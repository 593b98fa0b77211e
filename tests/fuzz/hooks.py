"""Loaded by Schemathesis (SCHEMATHESIS_HOOKS): lets what it generates get past the front door.

A valid request mostly names things that exist, keeps the rules that OpenAPI cannot express, and a webhook is signed;
otherwise most requests would end at the first check. What is generated to be invalid is left as it is.
"""

import json
import os
import random
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import schemathesis
from schemathesis import GenerationMode

from delivery import twilio_gateway
from tests.api_client import PUBLIC_BASE_URL

# {"agency_id", "conversations": {id: {"messages": [...]}}, "cursors", "account_sid", "auth_token", "numbers"}
WORLD = json.loads(Path(os.environ["FUZZ_WORLD"]).read_text())
BASE_PATH = "/api/v1"


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """Change a generated request in place."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if "webhooks" in case.operation.definition.raw["tags"]:
        _sign(case)
        return
    _choose_agency(case)
    _name_what_exists(case)
    if isinstance(case.body, dict):
        case.body = _sendable(case.body)


def _choose_agency(case: Any) -> None:
    for place, name in ((case.headers, "X-Tenant-ID"), (case.query, "tenant_id")):
        if place and name in place:
            place[name] = WORLD["agency_id"]


def _name_what_exists(case: Any) -> None:
    conversation_id = random.choice(list(WORLD["conversations"]))
    messages = WORLD["conversations"][conversation_id]
    names = {"conversation_id": conversation_id, "message_id": random.choice(messages)}
    for name in case.path_parameters or {}:
        if random.random() < 0.8:
            case.path_parameters[name] = names[name]
    query = case.query or {}
    if "before" in query:
        if case.path_parameters["conversation_id"] == conversation_id:
            query["before"] = random.choice(messages)
        else:
            del query["before"]
    if "cursor" in query:
        query["cursor"] = random.choice(WORLD["cursors"])
        query.pop("offset", None)


def _sendable(body: dict[str, Any]) -> dict[str, Any]:
    if "template" in body:
        # Names and values are text, and text does not carry U+0000; OpenAPI 3.0 has no rule for names.
        template = body["template"]
        if isinstance(template.get("variables"), dict):
            variables = template["variables"].items()
            template = {**template, "variables": {_text(name): _text(value) for name, value in variables}}
        return {"template": template}
    if "media_url" not in body:
        return {"content": body.get("content", "Hello")}
    return body


def _text(text: str) -> str:
    return text.replace("\0", "")


def _sign(case: Any) -> None:
    """As Twilio would, over a form that names an account and a number that exist."""
    if not isinstance(case.body, dict):
        return
    case.body["AccountSid"] = WORLD["account_sid"]
    if "message_id" in (case.path_parameters or {}):
        messages = random.choice(list(WORLD["conversations"].values()))
        case.path_parameters |= {"agency_id": WORLD["agency_id"], "message_id": random.choice(messages)}
    else:
        case.body["To"] = random.choice(WORLD["numbers"])
    if any(not isinstance(value, str) for value in case.body.values()):
        return  # what a form repeats is refused before its signature
    encoded = urlencode(case.body)
    pairs = [(name, value) for name, value in case.body.items()]
    assert encoded
    headers = case.headers if case.headers is not None else {}
    headers["X-Twilio-Signature"] = twilio_gateway.sign(
        PUBLIC_BASE_URL + BASE_PATH + case.formatted_path, pairs, WORLD["auth_token"]
    )
    case.headers = headers
