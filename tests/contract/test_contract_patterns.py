"""A pattern means the same to every engine that reads it: ECMAScript (clients), Python (validators) and Rust (ours)."""

import json
import re
import shutil
import subprocess
from typing import Any

import jsonschema_rs
import pytest

from tests.contract.document import all_schemas, load

PATTERNS = sorted({schema["pattern"] for _, schema in all_schemas(load()) if "pattern" in schema})

# Name of the pattern, text, and whether it may pass.
CASES = {
    "content": {
        "Hi": True,
        " a ": True,
        "\n.": True,
        "é": True,
        "שלום": True,
        "你好": True,
        "😀": True,
        "👨\u200d👩\u200d👧": True,
        "\u202e!": True,
        "\ufffd": True,
        "": False,
        " ": False,
        "\t\r\n\v\f": False,
        "\x00\x1f\x7f\x85\xa0": False,
        "\x1c\x1d\x1e\x1f": False,
        "\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000": False,
        "\u200b\u200c\u200d\u2060\ufeff": False,
        "\u00ad\u034f\u061c\u180e\u2066\u2069": False,
        "\u115f\u1160\u3164\uffa0\u2800": False,
        "\ufe0f\u200d": False,
    },
    "media_url": {
        "https://cdn.example.com/a.jpg": True,
        "https://cdn.example.com": True,
        "https://cdn.example.com:8443/a?b=c&d=%20#e": True,
        "https://xn--bcher-kva.example/x": True,
        "http://cdn.example.com/a.jpg": False,
        "HTTPS://cdn.example.com/a.jpg": False,
        "javascript:alert(1)": False,
        "file:///etc/passwd": False,
        "//cdn.example.com/a.jpg": False,
        "https://user:secret@cdn.example.com/": False,
        "https://cdn.example.com@127.0.0.1/": False,
        "https://127.0.0.1/": False,
        "https://2130706433/": False,
        "https://0x7f.1/": False,
        "https://[::1]/": False,
        "https://localhost/": False,
        "https://bücher.example/": False,
        "https://cdn.example.com\\@localhost/": False,
        "https://cdn.example.com/a b": False,
        "https://": False,
        "see https://cdn.example.com/a.jpg": False,
    },
    "media_type": {
        "image/jpeg": True,
        "application/vnd.ms-excel": True,
        "image/svg+xml": True,
        "image": False,
        "image/": False,
        "image/jpeg; q=1": False,
        "../jpeg/x": False,
    },
    "content_sid": {"HX" + "0a" * 16: True, "HX" + "0A" * 16: False, "MG" + "0a" * 16: False, "HX" + "0a" * 15: False},
    "id": {
        "01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90": True,
        "01980F41-7C3E-7D02-9A4B-1E6F8C2D5A90": False,
        "{01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90}": False,
        "01980f417c3e7d029a4b1e6f8c2d5a90": False,
        "01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90'": False,
        "42": False,
    },
    "tenant": {
        "01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90": True,
        "01980F41-7C3E-7D02-9A4B-1E6F8C2D5A90": True,
        "01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90,01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90": False,
        "{01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90}": False,
        "": False,
    },
    "key": {"6f1c2f0e-8a55": True, "~!": True, "a b": False, "a\tb": False, "ключ": False, "\x00": False, "": False},
}


def patterns() -> dict[str, str]:
    components: dict[str, Any] = load()["components"]
    sent = components["schemas"]["SendMessageRequest"]["properties"]
    return {
        "content": sent["content"]["pattern"],
        "media_url": sent["media_url"]["pattern"],
        "media_type": sent["media_type"]["pattern"],
        "content_sid": components["schemas"]["TemplateRequest"]["properties"]["content_sid"]["pattern"],
        "id": components["schemas"]["Id"]["pattern"],
        "tenant": components["schemas"]["TenantId"]["pattern"],
        "key": components["parameters"]["IdempotencyKey"]["schema"]["pattern"],
    }


def expected() -> dict[str, bool]:
    return {f"{name} {text!a}": passes for name, cases in CASES.items() for text, passes in cases.items()}


def test_python_reads_the_patterns_as_they_are_meant() -> None:
    read = {
        f"{name} {text!a}": re.search(pattern, text) is not None
        for name, pattern in patterns().items()
        for text in CASES[name]
    }
    assert read == expected()


def test_rust_reads_the_patterns_as_they_are_meant() -> None:
    """On the linear engine: one that needs backtracking would not compile."""
    read = {}
    for name, pattern in patterns().items():
        validator = jsonschema_rs.Draft4Validator(
            {"type": "string", "pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions()
        )
        read |= {f"{name} {text!a}": validator.is_valid(text) for text in CASES[name]}
    assert read == expected()


def test_ecmascript_reads_the_patterns_as_they_are_meant() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed (Debian: apt install nodejs)")
    tasks = [[f"{name} {text!a}", pattern, text] for name, pattern in patterns().items() for text in CASES[name]]
    script = """
        const tasks = JSON.parse(require('fs').readFileSync(0, 'utf8'));
        const read = tasks.map(([name, pattern, text]) =>
            [name, ['', 'u'].map(flag => new RegExp(pattern, flag).test(text))]);
        console.log(JSON.stringify(Object.fromEntries(read)));
    """
    done = subprocess.run(
        [node, "-e", script], input=json.dumps(tasks), check=True, capture_output=True, encoding="utf-8", timeout=60
    )
    assert json.loads(done.stdout) == {name: [passes, passes] for name, passes in expected().items()}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_uses_no_class_that_differs_between_engines(pattern: str) -> None:
    assert not re.search(r"\\[sSwWdDbB]|\(\?[=!<]", pattern)
    jsonschema_rs.Draft4Validator({"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions())


def test_a_fixed_length_is_also_kept_where_the_end_of_a_pattern_is_not_the_end_of_the_text() -> None:
    """Python's `$` matches before a line feed at the end; the length beside it does not let that through."""
    identifier = load()["components"]["schemas"]["Id"]
    text = "01980f41-7c3e-7d02-9a4b-1e6f8c2d5a90\n"
    assert re.search(identifier["pattern"], text)
    assert len(text) > identifier["maxLength"]
