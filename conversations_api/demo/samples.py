"""The real messages that demo and tests are made of; sample_messages/README.md says whose they are."""

import importlib.resources

_FILE = importlib.resources.files("conversations_api.demo") / "sample_messages" / "sms_spam_collection.tsv"


def read() -> list[tuple[str, str]]:
    """All 5,574 as (`ham` or `spam`, text), in the order of the file.

    Lines end at a line feed only: some texts hold U+0085, at which `splitlines` would cut them.
    """
    lines = _FILE.read_bytes().decode("utf-8").split("\n")[1:-1]
    return [(label, message) for label, _, message in (line.partition("\t") for line in lines)]


def ham() -> list[str]:
    """What people wrote to each other."""
    return [message for label, message in read() if label == "ham"]
