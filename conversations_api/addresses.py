"""Addresses of this machine: whether a port can be listened on, and one that nobody uses."""

import socket


class AddressInUse(Exception):
    """The address to listen on cannot be had; the message says why."""


def check(host: str, port: int) -> None:
    """Raises AddressInUse unless this process could listen there now."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: what is left of connections that have ended is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise AddressInUse(f"cannot listen on port {port} of {host} ({error.strerror}); PORT names another") from None


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
