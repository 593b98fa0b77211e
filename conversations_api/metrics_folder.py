"""Lets the processes of `serve` share their metrics, in files of a folder that goes when the master does.

Apart from everything else because prometheus_client decides when it is imported whether it keeps its values in files.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from conversations_api import settings


@contextmanager
def shared() -> Iterator[None]:
    """Around the first import of prometheus_client and all that runs after it, the forked processes included."""
    folder = tempfile.mkdtemp(prefix="conversations-api-metrics-")
    owner = os.getpid()
    settings.share_metrics(folder)
    try:
        yield
    finally:
        if os.getpid() == owner:  # a forked process leaves through here too
            shutil.rmtree(folder, ignore_errors=True)
