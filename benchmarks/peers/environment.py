"""What every peer is told by the benchmark: where the database is, and whose tokens count."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Environment:
    """`dsn` is libpq's; `pool_size` connections are kept by each process."""

    dsn: str
    public_key: str
    issuer: str
    audience: str
    pool_size: int


def read() -> Environment:
    return Environment(
        dsn=os.environ["PEER_DSN"],
        public_key=os.environ["JWT_PUBLIC_KEY"],
        issuer=os.environ["JWT_ISSUER"],
        audience=os.environ["JWT_AUDIENCE"],
        pool_size=int(os.environ["PEER_POOL_SIZE"]),
    )
