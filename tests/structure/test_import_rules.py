"""Who may import whom, and who alone may touch each outside world.

The packages form layers, and a layer reaches down only. Each world outside our own code (the environment, the
database, tokens, Twilio) has one module that imports it, so that what we rely on there can be read in one place.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Importer -> what it may import of ours, by prefix. A package may always import itself.
LAYERS = {
    "api": (),
    "persistence": (),
    "tenancy": ("persistence",),
    "delivery": ("tenancy", "persistence"),
    # Of delivery only what a request shares with the worker; never the worker itself, nor the simulator.
    "handlers": (
        "api",
        "tenancy",
        "persistence",
        "delivery.accounts",
        "delivery.evidence",
        "delivery.inbound",
        "delivery.metrics",
        "delivery.twilio_gateway",
    ),
    "conversations_api": ("api", "handlers", "delivery", "tenancy", "persistence"),
}

# World -> its door, and the names that lead into it, by prefix.
DOORS = {
    "the environment": (
        "conversations_api/settings.py",
        ("os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv"),
    ),
    "opening a database connection": (
        "tenancy/transaction.py",
        (
            "sqlalchemy.create_engine",
            "sqlalchemy.create_pool_from_url",
            "sqlalchemy.engine_from_config",
            "sqlalchemy.engine.create_engine",
            "sqlalchemy.engine.engine_from_config",
            "sqlalchemy.ext.asyncio",
            "psycopg2.connect",
            "psycopg2.pool",
        ),
    ),
    "an engine, once there is one": ("tenancy/transaction.py", ("*.engine",)),
    "tokens": ("tenancy/authentication.py", ("jose",)),
    "the carrier": ("delivery/twilio_gateway.py", ("twilio",)),
}

# Who asks anything of another host, and whom: nothing that a client sends names an address here. The demo asks itself.
ASKS_OTHERS = {
    "delivery/http_exchange.py": "the carrier, at TWILIO_BASE_URL",
    "tenancy/jwks.py": "the issuer, at JWT_JWKS_URL",
    "tenancy/rate_limits.py": "Redis, at RATE_LIMIT_STORAGE_URL",
    "conversations_api/tracing.py": "the collector, at OTEL_EXPORTER_OTLP_ENDPOINT",
}
CLIENTS = (
    "aiohttp",
    "ftplib",
    "http.client",
    "httpx",
    "limits.storage",
    "opentelemetry.exporter",
    "redis",
    "requests",
    "smtplib",
    "socket.create_connection",
    "urllib.request",
    "urllib3",
)

# Whose clock a host may use for what it decides: everything else is timed by the database, or by a clock that cannot
# jump (`time.monotonic`).
READS_THE_HOSTS_CLOCK = {
    "delivery/follower.py": "how far back the carrier's list is read, with room for clocks that differ",
    "delivery/outcomes.py": "a date in Retry-After",
    "tenancy/authentication.py": "the times in a token",
    "tenancy/rate_limits.py": "the end of a window, for its header",
}
CLOCKS = ("time.time", "time.time_ns", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today")


# The two ways through the database's door say what they are: `with tenant_transaction(...)` needs no module before it.
MAY_STAND_ALONE = ("tenancy.transaction.tenant_transaction", "tenancy.transaction.unbound_transaction")


def modules() -> list[pathlib.Path]:
    return sorted(path for package in LAYERS for path in (ROOT / package).rglob("*.py"))


def relative(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported, wherever in the file: `from a import b` is both `a.b` and its module `a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def references(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is used, its first part resolved through the imports; `*.x` for x of a local value."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.asname and alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield dotted(node, names)


def dotted(node: ast.Attribute, names: dict[str, str | None]) -> str:
    parts = [node.attr]
    value = node.value
    while isinstance(value, ast.Attribute):
        parts.append(value.attr)
        value = value.value
    if isinstance(value, ast.Name) and value.id in names:
        return ".".join([names[value.id] or value.id, *reversed(parts)])
    return f"*.{node.attr}"


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def forbidden_imports(package: str, tree: ast.AST) -> list[str]:
    ours = [name for name in imports(tree) if name.partition(".")[0] in LAYERS]
    return [name for name in ours if not within(name, (package, *LAYERS[package]))]


def worlds_touched(tree: ast.AST) -> set[str]:
    names = {*imports(tree), *references(tree)}
    return {world for world, (_, leading_in) in DOORS.items() if any(within(name, leading_in) for name in names)}


def functions_imported_by_name(package: str, tree: ast.AST) -> list[str]:
    """`from persistence.messages import insert`, where a call site has to read `messages.insert(...)`; classes pass."""
    return [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.partition(".")[0] in LAYERS
        and node.module.partition(".")[0] != package
        for alias in node.names
        if alias.name.islower()
        and f"{node.module}.{alias.name}" not in MAY_STAND_ALONE
        and not module_exists(f"{node.module}.{alias.name}")
    ]


def module_exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def parse(path: pathlib.Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_every_package_of_ours_has_its_layer() -> None:
    on_disk = {
        path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name not in ("tests", "benchmarks")
    }
    assert on_disk == set(LAYERS)


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_a_module_imports_only_layers_below_its_own(path: pathlib.Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert forbidden_imports(package, parse(path)) == []


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_functions_of_another_package_are_called_through_their_module(path: pathlib.Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert functions_imported_by_name(package, parse(path)) == []


@pytest.mark.parametrize("world", DOORS)
def test_each_outside_world_has_exactly_one_door(world: str) -> None:
    door, _ = DOORS[world]
    assert [relative(path) for path in modules() if world in worlds_touched(parse(path))] == [door]


def using(names: tuple[str, ...], *packages: str) -> set[str]:
    """The modules of these packages that import or use one of the names."""
    return {
        relative(path)
        for path in modules()
        if path.relative_to(ROOT).parts[0] in packages
        if any(within(name, names) for tree in [parse(path)] for name in {*imports(tree), *references(tree)})
    }


def test_only_configured_addresses_are_ever_asked() -> None:
    askers = using(CLIENTS, *LAYERS)
    aside = ("conversations_api/demo/", "delivery/simulator/")
    assert {path for path in askers if not path.startswith(aside)} == ASKS_OTHERS.keys()


def test_a_hosts_clock_decides_nothing_but_what_is_named() -> None:
    readers = using(CLOCKS, "delivery", "handlers", "persistence", "tenancy")
    assert {path for path in readers if not path.startswith("delivery/simulator/")} == READS_THE_HOSTS_CLOCK.keys()


def test_the_header_that_chooses_the_agency_has_one_reader() -> None:
    readers = {
        relative(path)
        for path in modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and "get" in ast.unparse(node.func).rpartition(".")[2]
        for argument in node.args
        if isinstance(argument, ast.Constant) and str(argument.value).lower().find("x-tenant-id") >= 0
    }
    assert len(readers) == 1


@pytest.mark.parametrize(
    ("package", "source", "caught"),
    [
        ("persistence", "import tenancy", ["tenancy"]),
        ("persistence", "def f():\n    from handlers import messages", ["handlers.messages"]),
        ("tenancy", "from delivery import worker", ["delivery.worker"]),
        ("handlers", "from delivery import worker", ["delivery.worker"]),
        ("handlers", "from delivery import twilio_gateway", []),
        ("handlers", "from conversations_api.settings import Settings", ["conversations_api.settings.Settings"]),
        ("delivery", "from handlers import problems", ["handlers.problems"]),
        ("conversations_api", "from handlers import problems", []),
    ],
)
def test_the_layer_rule_catches(package: str, source: str, caught: list[str]) -> None:
    assert forbidden_imports(package, ast.parse(source)) == caught


@pytest.mark.parametrize(
    ("source", "worlds"),
    [
        ("import os\nos.environ['X']", {"the environment"}),
        ("import os as system\nsystem.getenv('X')", {"the environment"}),
        ("from os import environ", {"the environment"}),
        ("import os.path\nos.path.join('a')", set()),
        ("import sqlalchemy\nsqlalchemy.create_engine('x')", {"opening a database connection"}),
        ("import sqlalchemy as sa\nsa.engine.create_engine('x')", {"opening a database connection"}),
        ("from psycopg2 import connect", {"opening a database connection"}),
        ("def f(database):\n    return database.engine.connect()", {"an engine, once there is one"}),
        ("from sqlalchemy.engine import Row", set()),
        ("from jose import jwt", {"tokens"}),
        ("def f():\n    import twilio.rest", {"the carrier"}),
    ],
)
def test_the_door_rule_catches(source: str, worlds: set[str]) -> None:
    assert worlds_touched(ast.parse(source)) == worlds


def test_the_call_site_rule_catches_functions_but_lets_classes_and_modules_pass() -> None:
    source = ast.parse(
        "from persistence.errors import MessageNotFound\n"
        "from persistence import errors\n"
        "from persistence.messages import insert\n"
    )
    assert functions_imported_by_name("handlers", source) == ["persistence.messages.insert"]
    assert functions_imported_by_name("persistence", source) == []
