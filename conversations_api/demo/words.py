"""What the demo says when it is ready: to a person in the terminal, and the same to scripts in demo.json."""

import json
import uuid
from typing import Any

from conversations_api.demo import invented_agencies
from conversations_api.demo.invented_agencies import Agency
from conversations_api.demo.memory import TOKEN_LIFETIME, DemoFolder, Installation
from conversations_api.demo.programs import Programs

# Of all roles these show what differs: who may do everything, who works in the inbox, who only looks.
_ROLES_SHOWN = ("admin", "staff", "viewer")


def for_scripts(installation: Installation, programs: Programs, database_url: str) -> dict[str, Any]:
    """The content of demo.json."""
    return {
        "api_url": programs.api_url,
        "ui_url": f"{programs.api_url}/ui/",
        "simulator_url": programs.simulator_url,
        "twilio": _account(installation.twilio),
        "database_url": database_url,
        "agencies": [_agency(installation, agency) for agency in installation.agencies],
    }


def for_people(folder: DemoFolder, content: dict[str, Any], conversation_id: str) -> str:
    """What is printed; `conversation_id` is one of the first agency's that can be written to."""
    first, second, third = content["agencies"]
    api_url, staff = content["api_url"], first["tokens"]["staff"]
    authorization = f"-H 'Authorization: Bearer {staff}'"
    thread = f"'{api_url}/conversations/{conversation_id}/messages'"
    body = json.dumps({"content": "Thank you, see you tomorrow!"})
    key = f"-H 'Idempotency-Key: {uuid.uuid4()}'"
    lines = [
        "",
        "Faro Conversations is running.",
        "",
        f"  Swagger UI        {content['ui_url']}",
        f"  API               {api_url}",
        f"  Simulated Twilio  {content['simulator_url']}  (contacts answer what is sent to them)",
        "",
        f"Tokens, valid for {TOKEN_LIFETIME.total_seconds() / 3600:.0f} hours. In Swagger UI: Authorize, paste, done.",
    ]
    for agency in content["agencies"]:
        lines += ["", f"  {agency['name']}  ({agency['id']})"]
        lines += [f"    {role:<7} {agency['tokens'][role]}" for role in _ROLES_SHOWN]
    lines += [
        "",
        f"  More roles are in {folder.demo_json}; `conversations-api token --help` makes others. The manager of",
        f"  {third['name']} may also look into {second['name']}:",
        f"  add  -H 'X-Tenant-ID: {second['id']}'",
        "",
        f"To paste, as staff of {first['name']}:",
        "",
        "  # the inbox, newest first",
        f"  curl -sS '{api_url}/conversations?limit=3' {authorization}",
        "",
        "  # read one of its conversations",
        f"  curl -sS {thread} {authorization}",
        "",
        "  # answer it; pasted again, it is the same answer and still one message",
        f"  curl -sS -X POST {thread} {authorization} {key} -H 'Content-Type: application/json' -d '{body}'",
        "",
        f"Logs and data are in {folder.path}; the data stays there for the next start. Ctrl-C stops everything.",
    ]
    return "\n".join(lines)


def _agency(installation: Installation, agency: Agency) -> dict[str, Any]:
    content: dict[str, Any] = {
        "id": str(agency.id),
        "name": agency.name,
        "tokens": {role: installation.token(agency, role) for role in invented_agencies.ROLES},
        "locations": [
            {"id": str(location.id), "name": location.name, "client": location.client_name}
            for location in agency.locations
        ],
        "channels": [
            {
                "id": str(channel.id),
                "kind": channel.kind,
                "address": channel.address,
                "location_id": str(channel.location_id),
            }
            for channel in agency.channels
        ],
    }
    if agency.own_account is not None:
        content["twilio"] = _account(agency.own_account)
    return content


def _account(account: invented_agencies.TwilioAccount) -> dict[str, str]:
    return {"account_sid": account.account_sid, "auth_token": account.auth_token}
