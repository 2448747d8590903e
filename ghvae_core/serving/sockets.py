"""The server's socket: addresses on this machine, and with keys also addresses that other machines can reach."""

from __future__ import annotations

import ipaddress
import re
import socket
import stat
from pathlib import Path
from typing import ClassVar

import zmq

from ghvae_core.predictor import PredictorError
from ghvae_core.serving.auth import Authenticator
from ghvae_core.serving.wire import MAX_PART_BYTES

_MAX_MESSAGES = 16  # in each direction for each peer; beyond it the peer blocks, and replies are dropped
_HEARTBEAT_MS, _SILENCE_MS = 1000, 3000  # a peer without heartbeats is disconnected; ours
_HANDSHAKE_MS = 2000  # a connection without a handshake is closed; ours
_MAX_IPC_BYTES = 107  # of a socket's path, Linux unix(7)


class AddressError(PredictorError):
    """An address that is refused or in use. Nothing was bound."""

    exit_code: ClassVar[int] = 2


def check_address(address: str, has_keys: bool = False) -> None:
    """Refuse an address that another machine could reach, unless the server has keys.

    Args:
        address: `tcp://127.0.0.1:PORT` (any loopback number; port 0 takes a free one) or `ipc:///path/of/a/socket`;
            with keys any IPv4 address of this machine, 0.0.0.0 for all.
        has_keys: Whether the server has keys.

    Raises:
        AddressError: It is none of these.
    """
    tcp = re.fullmatch(r"tcp://([0-9.]+):([0-9]{1,5})", address)
    if tcp and _is_number(tcp[1], has_keys) and int(tcp[2]) <= 65535:
        return
    ipc = re.fullmatch(r"ipc://(/[^\0]+)", address)
    if ipc and len(ipc[1].encode()) <= _MAX_IPC_BYTES:
        return
    raise AddressError(
        f"{address}: expected tcp://127.0.0.1:PORT, ipc:///PATH of at most {_MAX_IPC_BYTES} bytes, or, with --keys, "
        "tcp://IPv4:PORT; an address that another machine can reach is served with keys only: run_keys new FOLDER"
    )


def bind(
    context: zmq.Context[zmq.Socket[bytes]], address: str, authenticator: Authenticator | None
) -> zmq.Socket[bytes]:
    """Return a non-blocking ROUTER socket bound to `address`, which is local or protected by keys.

    Raises:
        AddressError: The address is not local, is in use, or is the path of another kind of file.
    """
    check_address(address, authenticator is not None)
    path = Path(address.removeprefix("ipc://")) if address.startswith("ipc://") else None
    if path is not None:
        _check_path(path, address)
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.MAXMSGSIZE, MAX_PART_BYTES)
    router.setsockopt(zmq.RCVHWM, _MAX_MESSAGES)
    router.setsockopt(zmq.SNDHWM, _MAX_MESSAGES)
    router.setsockopt(zmq.SNDTIMEO, 0)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    router.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    router.setsockopt(zmq.HEARTBEAT_TIMEOUT, _SILENCE_MS)
    if authenticator is not None:
        authenticator.protect(router)
    try:
        router.bind(address)
    except zmq.ZMQError as error:
        router.close()
        reason = "another program listens there" if error.errno == zmq.EADDRINUSE else str(error)
        raise AddressError(f"{address}: {reason}; stop it or take another --address") from None
    if path is not None:
        path.chmod(0o600)
    return router


def _check_path(path: Path, address: str) -> None:
    """Refuse the path of an existing file, which ZeroMQ would remove without an error."""
    try:
        mode = path.lstat().st_mode
    except OSError:  # there is no file; binding reports other errors
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(f"{address}: expected a new path or a socket's, got another file's; take another --address")
    if _is_alive(path):
        raise AddressError(f"{address}: another server listens there; stop it or take another --address")


def _is_number(host: str, has_keys: bool) -> bool:
    try:
        return ipaddress.IPv4Address(host).is_loopback or has_keys
    except ipaddress.AddressValueError:
        return False


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
