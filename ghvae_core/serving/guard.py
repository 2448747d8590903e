"""Who may speak to a server: at the door only machines whose key is let in, and later only while it still is."""

from __future__ import annotations

import logging
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from ghvae_core.serving import keys
from ghvae_core.serving.keys import KeysError

_DOMAIN = "ghvae"  # of ZAP, ZeroMQ RFC 27

_log = logging.getLogger(__name__)


class Guard:
    """Asks for CURVE keys on a socket, and answers for each machine by its list of keys, read anew whenever it changes.

    Raises:
        KeysError: From the constructor: the server's own pair is missing or open to others, or the list holds no keys.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self._folder = folder
        self._pair = keys.own(folder)
        self._state: tuple[tuple[str, int], ...] = ()
        self._allowed: dict[bytes, str] = {}
        if not keys.allowed(folder):
            _log.warning("%s lets nobody in yet; let machines in with: run_keys allow %s NAME.key", folder, folder)
        self._authenticator = ThreadAuthenticator(context)
        self._authenticator.start()
        self._authenticator.configure_curve_callback(_DOMAIN, self)

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Have a socket that is not bound yet take no message without an allowed key."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)

    def callback(self, domain: str, key: bytes) -> bool:
        """Tell whether a machine may connect; the authenticator asks, in its own thread."""
        name = self._names().get(key)
        _log.info("%s: %s", "a machine without an allowed key was shut out" if name is None else "let in", name or key)
        return domain == _DOMAIN and name is not None

    def admits(self, frame: zmq.Frame) -> bool:
        """Tell whether the machine that sent a message is still let in."""
        return str(frame.get("User-Id")).encode() in self._names()

    def close(self) -> None:
        """Let go of the authenticator, before its context ends."""
        self._authenticator.stop()

    def _names(self) -> dict[bytes, str]:
        """Return who is let in; nobody, where the list cannot be read."""
        try:
            state = keys.state(self._folder)
            if state != self._state:
                self._allowed, self._state = keys.allowed(self._folder), state
        except KeysError as error:
            _log.warning("nobody is let in: %s", error)
            return {}
        return self._allowed
