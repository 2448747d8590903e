"""Who may speak to a server: at the door only machines whose key is let in, and later only while it still is."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

import zmq
from zmq.auth.thread import ThreadAuthenticator

from ghvae_core.serving import auth
from ghvae_core.serving.auth import KeysError

_DOMAIN = "ghvae"  # of ZAP, ZeroMQ RFC 27
_TOLD = 100  # keys that are shut out; more would let strangers fill the disk with the log; ours

_log = logging.getLogger(__name__)


class Guard:
    """Asks for CURVE keys on a socket, and answers for each machine by its list of keys, read anew whenever it changes.

    Raises:
        KeysError: From the constructor: the server's own pair is missing or open to others, or the list holds no keys.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self._folder = folder
        self._pair = auth.own(folder)
        self._list = auth.state(folder), auth.allowed(folder)  # together, as two threads read and renew it
        self._shut_out: set[bytes] = set()  # what the log has told, once each
        if not self._list[1]:
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
        if name is not None:
            _log.info("%s is let in", name)
        elif key not in self._shut_out and len(self._shut_out) < _TOLD:
            self._shut_out.add(key)
            _log.warning("a machine is shut out; its key, %s, is not let in", key.decode("ascii", "replace"))
        return domain == _DOMAIN and name is not None

    def admits(self, frame: zmq.Frame) -> bool:
        """Tell whether the machine that sent a message is still let in."""
        with suppress(zmq.ZMQError):  # no key at all
            return str(frame.get("User-Id")).encode() in self._names()
        return False

    def close(self) -> None:
        """Let go of the authenticator, before its context ends."""
        self._authenticator.stop()

    def _names(self) -> dict[bytes, str]:
        """Return who is let in; nobody, where the list cannot be read."""
        try:
            state = auth.state(self._folder)
            if state != self._list[0]:
                self._list = state, auth.allowed(self._folder)
            return self._list[1]
        except (KeysError, OSError) as error:
            if self._list[1]:
                _log.warning("nobody is let in: %s", error)
            self._list = (), {}
            return {}
