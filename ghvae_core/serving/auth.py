"""The keys by which a planner's machine and a server know each other: CURVE pairs (ZeroMQ RFC 26), files in a folder.

Every machine makes its own pair, and only public halves travel:

    server's folder      server.key_secret  server.key  allowed/NAME.key ...
    planner's folder     NAME.key_secret  NAME.key  server.key
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from data_collection.atomic_io import write_file
from ghvae_core.predictor import PredictorError

_DOMAIN = "ghvae"  # of ZAP, ZeroMQ RFC 27
_TOLD = 100  # keys that are shut out; more would let strangers fill the disk with the log; ours

_log = logging.getLogger(__name__)


class Authenticator:
    """Asks for CURVE keys on a socket, and answers for each machine by its list of keys, read anew whenever it changes.

    Raises:
        KeysError: From the constructor: the server's own pair is missing or open to others, or the list holds no keys.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self._folder = folder
        self._pair = load_own_pair(folder)
        self._list = allowed_version(folder), load_allowed(folder)  # together, as two threads read and renew it
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
            version = allowed_version(self._folder)
            if version != self._list[0]:
                self._list = version, load_allowed(self._folder)
            return self._list[1]
        except (KeysError, OSError) as error:
            if self._list[1]:
                _log.warning("nobody is let in: %s", error)
            self._list = (), {}
            return {}


SERVER = "server"  # the name of a server's own pair
_PUBLIC, _SECRET = ".key", ".key_secret"
_ALLOWED = "allowed"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class KeysError(PredictorError):
    """Keys that are missing, open to others, or not keys."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True)
class KeyPair:
    """The two halves of a machine's key, 40 characters each (Z85)."""

    public: bytes
    secret: bytes


def create(folder: Path, name: str) -> Path:
    """Make a machine's pair in a folder that only its owner can read, and return the file of the public half.

    Args:
        folder: Made where it is not there.
        name: `server` for a server, or one by which the server's owner knows this machine.

    Raises:
        KeysError: The name is not one, or the folder has a pair already. Nothing was written.
    """
    _check_name(name)
    if pairs := sorted(folder.glob(f"*{_SECRET}")):
        raise KeysError(f"{folder}: expected no pair of keys yet, got {pairs[0].name}; take another folder")
    public, secret = folder / f"{name}{_PUBLIC}", folder / f"{name}{_SECRET}"
    if public.exists():
        raise KeysError(f"{public}: exists already; take another name or folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret.touch(mode=0o600, exist_ok=False)
    zmq.auth.create_certificates(folder, name)
    return public


def allow(folder: Path, public: Path) -> str:
    """Let the machine of a public key in, at once where a server runs, and return its name.

    Raises:
        KeysError: No public key, one with the secret half in it, or another key has its name. Nothing was written.
    """
    name = public.name.removesuffix(_PUBLIC)
    _check_name(name)
    key, secret = _load(public)
    if secret is not None:
        raise KeysError(f"{public}: expected a public key, got a secret one, which belongs on its own machine only")
    to = folder / _ALLOWED / f"{name}{_PUBLIC}"
    if to.exists() and _load(to)[0] != key:
        raise KeysError(f"{to}: expected no other key of that name; revoke it first")
    to.parent.mkdir(mode=0o700, exist_ok=True)
    write_file(to, public.read_bytes())
    return name


def revoke(folder: Path, name: str) -> None:
    """Shut a machine out, at once where a server runs.

    Raises:
        KeysError: No machine of that name is let in.
    """
    _check_name(name)
    path = folder / _ALLOWED / f"{name}{_PUBLIC}"
    if not path.exists():
        known = ", ".join(sorted(load_allowed(folder).values())) or "none"
        raise KeysError(f"{name}: expected a machine that is let in ({known}); nothing was changed")
    path.unlink()


def load_allowed(folder: Path) -> dict[bytes, str]:
    """Return the public keys that are let in, with the names of their machines.

    Raises:
        KeysError: A file in the list holds no key.
    """
    return {_load(path)[0]: path.stem for path in sorted((folder / _ALLOWED).glob(f"*{_PUBLIC}"))}


def allowed_version(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return what differs whenever the list of keys that are let in has changed."""
    return tuple((path.name, path.stat().st_mtime_ns) for path in sorted((folder / _ALLOWED).glob(f"*{_PUBLIC}")))


def load_own_pair(folder: Path) -> KeyPair:
    """Return the pair of this machine.

    Raises:
        KeysError: There is not exactly one, or others can read it.
    """
    secrets = sorted(folder.glob(f"*{_SECRET}"))
    if len(secrets) != 1:
        raise KeysError(
            f"{folder}: expected one pair of keys, got {len(secrets)}; make one with: run_keys new {folder}"
        )
    (path,) = secrets
    if path.stat().st_mode & 0o077:
        raise KeysError(f"{path}: expected a file that only its owner can read; chmod 600 it, or make a new pair")
    public, secret = _load(path)
    if secret is None:
        raise KeysError(f"{path}: expected a secret key, got a public one")
    return KeyPair(public, secret)


def load_server_key(folder: Path) -> bytes:
    """Return the public key of the server that a planner's folder names.

    Raises:
        KeysError: There is none.
    """
    path = folder / f"{SERVER}{_PUBLIC}"
    if not path.is_file():
        raise KeysError(f"{path}: no such file; copy it from the folder of the server's keys")
    return _load(path)[0]


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError):
        raise KeysError(f"{path}: expected a key as run_keys writes it, in a file that can be read") from None
    if len(public) != 40 or (secret is not None and len(secret) != 40):
        raise KeysError(f"{path}: expected a key of 40 characters as run_keys writes it")
    return public, secret


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise KeysError(f"{name}: expected a machine's name of letters, digits, dots, dashes and underscores")
