"""Bare Flask, psycopg2 and raw SQL: what an experienced developer writes by hand, with nothing in between.

It has the token check and row-level security, because without them it would be another service. It has no contract, no
validation of requests or answers, no rate limits, no log line, no metrics.

Started as `gunicorn --worker-class gthread --threads 10`: threads, because psycopg2 blocks; ten, because ours has ten;
keep-alive as ours has it, because its default of two seconds would end connections in the middle of a run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flask
import orjson
from jose import JWTError, jwk, jwt
from psycopg2 import extensions, extras
from psycopg2.pool import ThreadedConnectionPool

from benchmarks.peers import environment, shapes, statements

BIND, COUNT = statements.for_psycopg2(statements.BIND), statements.for_psycopg2(statements.COUNT)
LIST_FIRST, LIST_AFTER = (
    statements.for_psycopg2(statements.LIST_FIRST),
    statements.for_psycopg2(statements.LIST_AFTER),
)
FIND_PLACE = statements.for_psycopg2(statements.FIND_PLACE)
MESSAGES_FIRST, MESSAGES_BEFORE = (
    statements.for_psycopg2(statements.MESSAGES_FIRST),
    statements.for_psycopg2(statements.MESSAGES_BEFORE),
)

settings = environment.read()
# As large at rest as at work: the pool closes what is above its minimum whenever a connection comes back.
pool = ThreadedConnectionPool(settings.pool_size, settings.pool_size, settings.dsn)
# psycopg2 would take the standard library's, which is slower.
extras.register_default_jsonb(loads=orjson.loads, globally=True)
# A finished key: python-jose would parse the PEM again for every request.
key = jwk.construct(settings.public_key, "RS256")

# No static files, as in ours: one route less to look at.
app = flask.Flask(__name__, static_folder=None)


def agency_of_token() -> str:
    scheme, _, token = flask.request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer":
        flask.abort(401)
    try:
        claims = jwt.decode(token, key, ["RS256"], audience=settings.audience, issuer=settings.issuer)
    except JWTError:
        flask.abort(401)
    return str(claims["agency_id"])


@contextmanager
def transaction(agency_id: str) -> Iterator[extensions.cursor]:
    """psycopg2's own transaction: it begins with the first statement and is committed by `with connection`."""
    connection = pool.getconn()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(BIND, {"agency_id": agency_id})
            yield cursor
    finally:
        pool.putconn(connection)


def rows_of(cursor: extensions.cursor) -> list[dict[str, Any]]:
    """By column name. psycopg2's own RealDictCursor is shorter to write, and takes a millisecond for a page."""
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def answer(body: dict[str, Any]) -> flask.Response:
    """orjson, because it knows datetimes: flask.jsonify writes them as HTTP dates, and takes three times as long."""
    return flask.Response(orjson.dumps(body, option=orjson.OPT_UTC_Z), content_type="application/json")


@app.get("/api/v1/conversations")
def list_conversations() -> flask.Response:
    agency_id = agency_of_token()
    limit, cursor_text = flask.request.args.get("limit", 20, int), flask.request.args.get("cursor")
    parameters: dict[str, object] = {"agency_id": agency_id, "limit": limit + 1}
    if cursor_text is not None:
        at, row_id = shapes.decode_cursor(cursor_text)
        parameters |= {"before_at": at, "before_id": str(row_id)}
    with transaction(agency_id) as cursor:
        cursor.execute(LIST_FIRST if cursor_text is None else LIST_AFTER, parameters)
        rows = rows_of(cursor)
        cursor.execute(COUNT, parameters)
        total = cursor.fetchall()[0][0]
    return answer(shapes.conversation_page(rows, total=total, limit=limit))


@app.get("/api/v1/conversations/<uuid:conversation_id>/messages")
def list_messages(conversation_id: object) -> flask.Response:
    agency_id = agency_of_token()
    limit, before = flask.request.args.get("limit", 50, int), flask.request.args.get("before")
    parameters: dict[str, object] = {
        "agency_id": agency_id,
        "conversation_id": str(conversation_id),
        "before": before,
        "limit": limit + 1,
    }
    with transaction(agency_id) as cursor:
        cursor.execute(FIND_PLACE, parameters)
        place = cursor.fetchone()
        if place is None:
            flask.abort(404)
        parameters["before_at"] = place[0]
        cursor.execute(MESSAGES_FIRST if before is None else MESSAGES_BEFORE, parameters)
        rows = rows_of(cursor)
    return answer(shapes.message_page(rows, limit=limit))
