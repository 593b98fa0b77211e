"""Text as PostgreSQL can hold it: without U+0000 and without halves of surrogate pairs.

What a client sends is refused when it holds them; what the carrier brings cannot be refused, and is repaired.
"""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def repair(text: str) -> str:
    """The text with U+FFFD in place of each character that cannot be stored."""
    return _UNSTORABLE.sub(_REPLACEMENT, text)
