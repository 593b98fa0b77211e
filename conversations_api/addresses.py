"""Addresses of this machine: whether a port can be listened on, and one that nobody uses."""

import socket


class AddressInUse(Exception):
    """The address to listen on cannot be had; the message says why."""


def check(host: str, port: int) -> None:
    """Raises AddressInUse unless this process could listen there now."""
    bind(host, port, setting="PORT").close()


def bind(host: str, port: int, *, setting: str) -> socket.socket:
    """A TCP socket that has the address, and does not listen yet. Raises AddressInUse, which names the setting."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            # As servers do: what is left of connections that have ended is no obstacle.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except OSError as error:
        message = f"cannot listen on port {port} of {host} ({error.strerror}); {setting} names another"
        raise AddressInUse(message) from None
    return bound


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
