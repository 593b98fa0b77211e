"""A relay between a client and PostgreSQL that loses the reply of one COMMIT, as a network that breaks there does."""

import re
import socket
import threading
from contextlib import suppress
from typing import Self

# A query of the simple protocol that is a commit, or brings one behind what was still to be sent.
COMMIT = re.compile(rb"(?:Q\x00\x00\x00.|; )COMMIT(?:; |\x00)", re.DOTALL)


class PostgresProxy:
    """Relays until `lose_next_commit`: then that COMMIT still reaches the server, and its reply reaches nobody."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._armed = threading.Event()
        self.lost = threading.Event()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def lose_next_commit(self) -> None:
        self.lost.clear()
        self._armed.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                broken = threading.Event()
                for work in (self._to_server, self._to_client):
                    threading.Thread(target=work, args=(client, server, broken), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket, broken: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                if COMMIT.search(data) and self._armed.is_set():
                    self._armed.clear()
                    broken.set()
                server.sendall(data)
        _close(client, server)

    def _to_client(self, client: socket.socket, server: socket.socket, broken: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                if broken.is_set():  # the server has committed, and says so
                    break
                client.sendall(data)
        _close(client, server)
        if broken.is_set():
            self.lost.set()


def _close(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
