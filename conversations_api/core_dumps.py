"""What a process holds in memory stays there when it crashes: it holds messages, phone numbers and keys."""

import resource


def forbid() -> None:
    """Leave no core file, nor do the processes that this one starts; a piped `core_pattern` is told the same."""
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
