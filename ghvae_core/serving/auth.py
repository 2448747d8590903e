"""Authentication of machines by CURVE key pairs (ZeroMQ RFC 26), stored as files in a folder.

Every machine creates its own pair; only public keys are copied:

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
_MAX_LOGGED_KEYS = 100  # refused keys that are logged, so that no client can fill the disk; ours
SERVER = "server"  # the name of a server's own pair
_PUBLIC, _SECRET = ".key", ".key_secret"
_ALLOWED = "allowed"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

_log = logging.getLogger(__name__)


class KeysError(PredictorError):
    """Keys that are missing, readable by others, or invalid."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True)
class KeyPair:
    """The key pair of a machine, 40 characters each (Z85)."""

    public: bytes
    secret: bytes


def create(folder: Path, name: str) -> Path:
    """Create the key pair of a machine in a folder that only its owner can read; return the file of the public key.

    Args:
        folder: Created if it does not exist.
        name: `server` for a server, else a name for this machine.

    Raises:
        KeysError: The name is not valid, or the folder has a pair already. Nothing was written.
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
    """Allow the machine of a public key and return its name; a running server applies it at once.

    Raises:
        KeysError: The file is not a public key, or another key has the same name. Nothing was written.
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
    """Remove a machine from the allowed ones; a running server applies it at once.

    Raises:
        KeysError: No machine of that name is allowed.
    """
    _check_name(name)
    path = folder / _ALLOWED / f"{name}{_PUBLIC}"
    if not path.exists():
        known = ", ".join(sorted(load_allowed(folder).values())) or "none"
        raise KeysError(f"{name}: expected an allowed machine ({known}); nothing was changed")
    path.unlink()


def load_allowed(folder: Path) -> dict[bytes, str]:
    """Return the allowed public keys and the names of their machines.

    Raises:
        KeysError: A file in the list holds no key.
    """
    return {_load(path)[0]: path.stem for path in sorted((folder / _ALLOWED).glob(f"*{_PUBLIC}"))}


def allowed_version(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return a value that changes whenever the list of allowed keys changes."""
    return tuple((path.name, path.stat().st_mtime_ns) for path in sorted((folder / _ALLOWED).glob(f"*{_PUBLIC}")))


def load_own_pair(folder: Path) -> KeyPair:
    """Load the key pair of this machine.

    Raises:
        KeysError: There is not exactly one pair, or other users can read it.
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
    """Load the public key of the server from the folder of a planner.

    Raises:
        KeysError: The file is missing.
    """
    path = folder / f"{SERVER}{_PUBLIC}"
    if not path.is_file():
        raise KeysError(f"{path}: no such file; copy it from the folder of the server's keys")
    return _load(path)[0]


class Authenticator:
    """Allows machines by their CURVE keys; the list of keys is reloaded whenever it changes.

    Raises:
        KeysError: From the constructor: the server's pair is missing or readable by others, or a file holds no key.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path) -> None:
        self._folder = folder
        self._pair = load_own_pair(folder)
        self._list = allowed_version(folder), load_allowed(folder)  # replaced together, as two threads use them
        self._logged: set[bytes] = set()  # refused keys, each logged once
        if not self._list[1]:
            _log.warning("%s allows no machine yet; allow machines with: run_keys allow %s NAME.key", folder, folder)
        self._thread = ThreadAuthenticator(context)
        self._thread.start()
        self._thread.configure_curve_callback(_DOMAIN, self)

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Require an allowed key on a socket that is not bound yet."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._pair.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._pair.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether a machine may connect. Called in the thread of `ThreadAuthenticator`."""
        name = self._names().get(key)
        if name is not None:
            _log.info("%s is allowed", name)
        elif key not in self._logged and len(self._logged) < _MAX_LOGGED_KEYS:
            self._logged.add(key)
            _log.warning("a machine is refused: its key %s is not allowed", key.decode("ascii", "replace"))
        return domain == _DOMAIN and name is not None

    def admits(self, frame: zmq.Frame) -> bool:
        """Return whether the sender of a message is still allowed."""
        with suppress(zmq.ZMQError):  # no key at all
            return str(frame.get("User-Id")).encode() in self._names()
        return False

    def close(self) -> None:
        """Stop the authentication thread; call it before the context is terminated."""
        self._thread.stop()

    def _names(self) -> dict[bytes, str]:
        """Return the allowed keys and names; none if the list cannot be read."""
        try:
            version = allowed_version(self._folder)
            if version != self._list[0]:
                self._list = version, load_allowed(self._folder)
            return self._list[1]
        except (KeysError, OSError) as error:
            if self._list[1]:
                _log.warning("no machine is allowed: %s", error)
            self._list = (), {}
            return {}


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
