"""Keys in a folder: creation, allowed machines, refusals."""

import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import zmq

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import DeadlineError, PredictorError
from ghvae_core.serving import auth, protocol
from ghvae_core.serving import client as client_module
from ghvae_core.serving.auth import KeysError
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.protocol import Hello, Predict
from ghvae_core.serving.server import PredictionServer, ServingConfig
from ghvae_core.serving.sockets import AddressError, check_address
from tests.ghvae_core.serving.example import prediction, request
from tests.ghvae_core.serving.live import Running, peer, running
from tests.patience import relaxed


class Lab:
    """A server with keys, and the sizes of the messages that it decoded."""

    def __init__(self, server: Running, folder: Path, decoded: list[int]) -> None:
        self.address = f"tcp://127.0.0.1:{server.address.rpartition(':')[2]}"
        self.keys, self.decoded, self._folder = folder / "server", decoded, folder

    def machine(self, name: str, is_allowed: bool) -> Path:
        folder = self._folder / name
        public = auth.create(folder, name)
        shutil.copy(self.keys / "server.key", folder)
        if is_allowed:
            auth.allow(self.keys, public)
        return folder

    def client(self, folder: Path | None, timeout_s: float = 60.0) -> ServerClient:
        return ServerClient(self.address, GoalCost(), timeout_s, folder)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(client_module, "_CONNECT_TIMEOUT_S", relaxed(1.5))
    decoded: list[int] = []
    decode = protocol.decode_request

    def recording(parts: Sequence[bytes]) -> Hello | Predict:
        decoded.append(len(parts))
        return decode(parts)

    monkeypatch.setattr(protocol, "decode_request", recording)
    auth.create(tmp_path / "server", "server")
    with running(address="tcp://0.0.0.0:0", keys=tmp_path / "server") as server:
        yield Lab(server, tmp_path, decoded)


def _predict(client: ServerClient) -> None:
    sent = request()
    reply = client.predict(sent.context, sent.candidates, sent.goal, sent.n_videos)
    np.testing.assert_array_equal(reply.costs, prediction(sent).costs)


def test_an_allowed_machine_is_served(lab: Lab) -> None:
    with closing(lab.client(lab.machine("lab7", True))) as client:
        _predict(client)


def test_no_key_an_unknown_key_and_another_server_are_refused(lab: Lab) -> None:
    unknown, other_server = lab.machine("unknown", False), lab.machine("other_server", True)
    shutil.copy(auth.create(lab.keys.parent / "another", "server"), other_server)
    for folder, message in (
        (unknown, "does not know this machine's key"),
        (None, "uses keys"),
        (other_server, "its key differs"),
    ):
        with pytest.raises(PredictorError, match=f"refused this machine: .*{message}"):
            lab.client(folder)
    with peer(lab.address) as bare:
        bare.send([b"hello"])
        assert bare.receive(500) is None
    assert lab.decoded == []


def test_the_reason_of_a_failed_handshake_remains_after_it_closes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, closed = zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    with closing(lab.client(lab.machine("lab7", True))) as client:
        for events, message in (
            ((failed, closed), "does not know this machine's key"),
            ((closed, failed), "does not know this machine's key"),
            ((failed, zmq.EVENT_HANDSHAKE_SUCCEEDED, closed), "its key differs"),
        ):
            remaining = iter(events)
            monkeypatch.setattr(
                "ghvae_core.serving.client.recv_monitor_message",
                lambda _, remaining=remaining: {"event": next(remaining)},
            )
            client._handshake_error = ""
            assert [client._is_connected() for _ in events] == [
                event == zmq.EVENT_HANDSHAKE_SUCCEEDED for event in events
            ]
            assert message in client._handshake_error


def test_a_client_without_keys_names_keys_whichever_side_closes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server, closing(ServerClient(server.address, GoalCost(), 60.0)) as client:
        for event in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            monkeypatch.setattr(client_module, "recv_monitor_message", lambda _, event=event: {"event": event})
            client._handshake_error = ""
            assert not client._is_connected()
            assert "uses keys" in client._handshake_error


def test_requests_of_a_revoked_machine_are_ignored_on_an_open_connection(lab: Lab) -> None:
    folder, other = lab.machine("lab7", True), lab.machine("lab8", True)
    with closing(lab.client(folder, timeout_s=relaxed(1.0, 60.0))) as client, closing(lab.client(other)) as allowed:
        _predict(client)
        auth.revoke(lab.keys, "lab7")
        n_decoded = len(lab.decoded)
        assert n_decoded
        with pytest.raises(DeadlineError):
            _predict(client)
        assert len(lab.decoded) == n_decoded
        _predict(allowed)
    auth.allow(lab.keys, folder / "lab7.key")
    with closing(lab.client(folder)) as client:
        _predict(client)


def test_an_unreadable_list_allows_no_machine(lab: Lab) -> None:
    folder = lab.machine("lab7", True)
    with closing(lab.client(folder, timeout_s=relaxed(1.0, 60.0))) as client:
        _predict(client)
        time.sleep(0.02)  # longer than the resolution of file times
        (lab.keys / "allowed/odd.key").write_text("nothing")
        with pytest.raises(DeadlineError):
            _predict(client)
        (lab.keys / "allowed/odd.key").unlink()
        _predict(client)


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5555", "tcp://192.168.0.3:5555"])
def test_an_address_reachable_from_other_machines_needs_keys(address: str, tmp_path: Path) -> None:
    check_address(address, has_keys=True)
    with pytest.raises(AddressError, match="with keys only"):
        PredictionServer(address, ServingConfig(), [])
    with pytest.raises(KeysError, match="run_keys new"):
        PredictionServer(address, ServingConfig(), [], tmp_path)


def test_only_the_owner_can_read_a_pair(tmp_path: Path) -> None:
    public = auth.create(tmp_path / "own", "lab7")
    pair = auth.load_own_pair(tmp_path / "own")
    assert public == tmp_path / "own/lab7.key" and pair.public != pair.secret
    assert pair.secret not in public.read_bytes() and pair.public in public.read_bytes()
    assert stat.S_IMODE((tmp_path / "own/lab7.key_secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o700


def test_a_second_pair_and_invalid_names_are_refused(tmp_path: Path) -> None:
    auth.create(tmp_path, "lab7")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeysError, match="no pair of keys yet, got lab7"):
        auth.create(tmp_path, "lab8")
    for name in ("", "../lab", "a b", "-x", "x" * 65):
        with pytest.raises(KeysError, match="a machine's name"):
            auth.create(tmp_path / "other", name)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_machines_are_allowed_and_revoked(tmp_path: Path) -> None:
    auth.create(tmp_path / "server", "server")
    public = auth.create(tmp_path / "lab7", "lab7")
    before = auth.allowed_version(tmp_path / "server")
    assert auth.allow(tmp_path / "server", public) == "lab7"
    assert auth.load_allowed(tmp_path / "server") == {auth.load_own_pair(tmp_path / "lab7").public: "lab7"}
    assert auth.allowed_version(tmp_path / "server") != before
    assert auth.allow(tmp_path / "server", public) == "lab7"  # the second call changes nothing
    auth.revoke(tmp_path / "server", "lab7")
    assert auth.load_allowed(tmp_path / "server") == {} and auth.allowed_version(tmp_path / "server") == before
    with pytest.raises(KeysError, match=r"lab7: expected an allowed machine \(none\)"):
        auth.revoke(tmp_path / "server", "lab7")


def test_another_key_for_an_allowed_name_is_refused(tmp_path: Path) -> None:
    first, second = auth.create(tmp_path / "a", "lab7"), auth.create(tmp_path / "b", "lab7")
    auth.create(tmp_path / "server", "server")
    auth.allow(tmp_path / "server", first)
    with pytest.raises(KeysError, match="revoke it first"):
        auth.allow(tmp_path / "server", second)
    assert list(auth.load_allowed(tmp_path / "server")) == [auth.load_own_pair(tmp_path / "a").public]


def test_secret_keys_and_other_files_are_refused(tmp_path: Path) -> None:
    auth.create(tmp_path / "server", "server")
    auth.create(tmp_path / "a", "lab7")
    (tmp_path / "noise.key").write_bytes(b"\xff\x00 what")
    (tmp_path / "short.key").write_text('public-key = "abc"\n')
    for path, message in (
        (tmp_path / "a/lab7.key_secret", "belongs on its own machine"),
        (tmp_path / "noise.key", "as run_keys writes it"),
        (tmp_path / "short.key", "40 characters"),
        (tmp_path / "none.key", "none.key"),
    ):
        with pytest.raises(KeysError, match=message):
            auth.allow(tmp_path / "server", path)
    assert not (tmp_path / "server/allowed").exists()


def test_keys_that_other_users_can_read_are_refused(tmp_path: Path) -> None:
    auth.create(tmp_path, "server")
    (tmp_path / "server.key_secret").chmod(0o640)
    with pytest.raises(KeysError, match="only its owner can read"):
        auth.load_own_pair(tmp_path)


def test_the_error_for_missing_keys_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="run_keys new"):
        auth.load_own_pair(tmp_path)
    with pytest.raises(KeysError, match="copy it from the folder of the server"):
        auth.load_server_key(tmp_path)
