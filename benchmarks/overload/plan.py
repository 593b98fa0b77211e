"""How a run is made."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """One run. `factor` times of what the API can do is asked of it, and `webhooks` are posted each second besides."""

    seconds: float = 300.0
    factor: float = 2.0
    webhooks: float = 20.0
    processes: int = 2
    threads: int = 10
    connections: int = 1000
    limit: int = 6000  # requests of one agency in a minute, where one floods; elsewhere there is none
    quiet: float = 40.0  # requests a second of the agency beside it
    slow: int = 900  # connections that idle or drip
