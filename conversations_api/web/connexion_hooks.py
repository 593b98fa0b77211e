"""What Connexion lets us put in place of its own: resolver, validators, JSON, error handler.

Connexion makes a validator for every request and gives it the schema; ours look the operation up, whose validators were
compiled when the process started.
"""

import functools
import inspect
import logging
import re
from typing import Any
from urllib.parse import parse_qsl

import flask
from connexion.datastructures import MediaTypeDict
from connexion.jsonifier import Jsonifier
from connexion.lifecycle import ConnexionRequest, ConnexionResponse
from connexion.resolver import Resolution, Resolver
from connexion.validators import VALIDATOR_MAP
from starlette.types import Message, Receive, Scope, Send

from conversations_api.web import validation
from conversations_api.web.contract import Contract, Operation
from conversations_api.web.request_head import FORM
from handlers import problems, responses

logger = logging.getLogger(__name__)

DOCUMENT_ENDPOINT = "openapi_document"  # the one address that Flask serves and the contract does not name


class SnakeCaseResolver(Resolver):  # type: ignore[misc]  # Connexion ships no types
    """`listConversations` of `handlers.conversations` is `list_conversations` there; its id stays as it is written."""

    def resolve(self, operation: Any) -> Resolution:
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operation.operation_id).lower()
        function = self.resolve_function_from_operation_id(f"{operation.router_controller}.{name}")
        if not inspect.isfunction(function):
            raise TypeError(f"{operation.router_controller}.{name} is not a function")
        return Resolution(function, operation.operation_id)


class CompactJson(Jsonifier):  # type: ignore[misc]
    """For a handler that returns a bare value; ours return finished responses, made by the same function."""

    def dumps(self, data: Any, **_options: Any) -> bytes:
        return responses.dumps(data)


def before_handler() -> None:
    """Flask routes a request once more: that must be to the operation whose token and parameters were checked.

    Then keep the body as it came. Connexion lets Flask parse a form before the handler runs, and what Flask has parsed
    it gives to nobody; a webhook's signature covers what came.
    """
    routing = flask.request.environ["asgi.scope"]["extensions"].get("connexion_routing", {})
    checked = routing.get("operation_id") or DOCUMENT_ENDPOINT
    if flask.request.endpoint is not None and flask.request.endpoint.rpartition(".")[2] != checked:
        raise RuntimeError("Flask and Connexion route this request differently")
    flask.request.get_data(cache=True)


async def answer_error(request: ConnexionRequest, error: Exception) -> ConnexionResponse:
    """Every error of Connexion, Starlette, Flask and the handlers. A coroutine, because others cost a thread."""
    rendered = problems.answer(error, request.scope["state"], authorization=request.headers.get("authorization"))
    return ConnexionResponse(
        status_code=rendered.status, mimetype=problems.MEDIA_TYPE, body=rendered.body, headers=dict(rendered.headers)
    )


def validator_map(contract: Contract) -> dict[str, Any]:
    """For FlaskApp's `validator_map`. Connexion replaces whole maps, so each holds every type that its own does."""
    body = functools.partial(_Body, contract)
    response = functools.partial(_Response, contract)
    return {
        "parameter": functools.partial(_Parameters, contract),
        "body": MediaTypeDict({**dict.fromkeys(VALIDATOR_MAP["body"], body), "*/*": body}),
        "response": MediaTypeDict({**dict.fromkeys(VALIDATOR_MAP["response"], response), "*/*": response}),
    }


def _operation(contract: Contract, scope: Scope) -> Operation:
    return contract.operations[scope["extensions"]["connexion_routing"]["operation_id"]]


class _Parameters:
    def __init__(self, contract: Contract, *_parameters: object, **_options: object) -> None:
        self._contract = contract

    def validate(self, scope: Scope) -> None:
        errors = validation.check_parameters(
            _operation(self._contract, scope),
            path=scope["path_params"],
            # The edge has made sure that it is ASCII and decodes, and that no name occurs twice.
            query=parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True),
            headers={name.decode("ascii"): value.decode("latin-1") for name, value in scope["headers"]},
        )
        if errors:
            raise problems.Problem("invalid_request", errors)


class _Body:
    def __init__(self, contract: Contract, **_options: object) -> None:
        self._contract = contract

    async def wrap_receive(self, receive: Receive, *, scope: Scope) -> tuple[Receive, Scope]:
        operation = _operation(self._contract, scope)
        message = await receive()  # the edge hands the whole body over as one message
        media_type = dict(scope["headers"])[b"content-type"].decode("ascii")
        if media_type == FORM:
            errors = validation.check_form(operation.bodies[media_type], message["body"])
        else:
            errors = validation.check_json(
                operation.bodies[media_type], message["body"], required=operation.body_required
            )
        if errors:
            raise problems.Problem("invalid_request", errors)
        held = [message]

        async def replay() -> Message:
            return held.pop() if held else await receive()

        return replay, scope


class _Response:
    def __init__(self, contract: Contract, scope: Scope, **_options: object) -> None:
        self._operation = _operation(contract, scope)

    def wrap_send(self, send: Send) -> Send:
        held: list[Message] = []

        async def checked_send(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.start" or message.get("more_body", False):
                return
            start, *parts = held
            self._check(start, b"".join(part.get("body", b"") for part in parts))
            for each in held:
                await send(each)

        return checked_send

    def _check(self, start: Message, body: bytes) -> None:
        headers = {name.decode("latin-1"): value for name, value in start["headers"]}
        media_type = headers.get("content-type", b"").partition(b";")[0].strip().decode("latin-1").lower()
        status = start["status"]
        try:
            validation.check_response(self._operation, status=status, media_type=media_type, headers=headers, body=body)
        except validation.ContractBroken as broken:
            extra = {"answer_status": status, "path": broken.path, "rule": broken.rule}
            logger.error("answer breaks the contract", extra=extra)
            raise problems.Problem("internal_error") from broken
