import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
import zmq

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import (
    DeadlineError,
    MismatchError,
    NonFiniteError,
    Prediction,
    PredictionRequest,
    PredictorError,
)
from ghvae_core.serving import client as client_module
from ghvae_core.serving.client import ServerClient
from ghvae_core.serving.protocol import (
    Hello,
    Predict,
    PredictionReply,
    Refusal,
    Welcome,
    decode_request,
    encode_reply,
)
from ghvae_core.serving.wire import ServerLimits
from tests.ghvae_core.serving.example import SPEC, prediction, request
from tests.ghvae_core.serving.live import running
from tests.patience import patience

REQUEST = request()
WELCOME = Welcome(b"", SPEC, ServerLimits(max_waiting=1))
Replies = Callable[[Predict], list[list[bytes]]]  # the replies to a request


@contextmanager
def _scripted(
    replies: Replies, welcome: Callable[[Hello], list[bytes]] | None = None, address: str = "tcp://127.0.0.1:0"
) -> Iterator[str]:
    """Run a scripted server that replies to requests by `replies`; yield its address."""
    stop = threading.Event()
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(address)
    address = router.get_string(zmq.LAST_ENDPOINT)

    def serve_requests() -> None:
        while not stop.is_set():
            if router.poll(10):
                sender, *parts = router.recv_multipart()
                message = decode_request(parts)
                if isinstance(message, Hello):
                    standard = encode_reply(replace(WELCOME, id=message.id))
                    router.send_multipart([sender, *(welcome(message) if welcome else standard)])
                else:
                    for reply in replies(message):
                        router.send_multipart([sender, *reply])

    thread = threading.Thread(target=serve_requests)
    thread.start()
    try:
        yield str(address)
    finally:
        stop.set()
        thread.join()
        router.close(linger=0)
        context.term()


def _predict(address: str, timeout_s: float = 60.0) -> Prediction:
    client = ServerClient(address, REQUEST.cost, timeout_s)
    try:
        return client.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, REQUEST.n_videos)
    finally:
        client.close()


def _reply(message: Predict) -> list[bytes]:
    return encode_reply(PredictionReply(message.id, prediction(message.request)))


def test_the_client_returns_the_prediction_of_the_server() -> None:
    with running() as server:
        client = ServerClient(server.address, REQUEST.cost)
        assert client.spec == replace(SPEC, name="server")
        for seed in range(3):
            sent = request(seed=seed)
            got = client.predict(sent.context, sent.candidates, sent.goal, 2)
            np.testing.assert_array_equal(got.costs, prediction(sent).costs)
            np.testing.assert_array_equal(got.videos, prediction(sent).videos)
            assert got.timing_s["round_trip"] > 0
        client.close()
        client.close()


def test_the_request_contains_the_cost() -> None:
    with running("final frames") as server:
        client = ServerClient(server.address, GoalCost(final_frames=3))
        got = client.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 0)
        client.close()
    assert (got.costs == 3).all()


def test_a_missing_server_is_reported_within_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_CONNECT_TIMEOUT_S", 0.05)
    with pytest.raises(
        PredictorError, match=r"no server at tcp://127.0.0.1:9 within 0.05 s; start one with: run_server"
    ):
        ServerClient("tcp://127.0.0.1:9", GoalCost())


@pytest.mark.parametrize("address", ["", "nonsense", "tcp://127.0.0.1", "carrier://pigeon"])
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(MismatchError, match="expected an address such as"):
        ServerClient(address, GoalCost())


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 61.0, float("nan")])
def test_an_invalid_timeout_is_refused(timeout_s: float) -> None:
    with pytest.raises(MismatchError, match="timeout_s"):
        ServerClient("tcp://127.0.0.1:9", GoalCost(), timeout_s)


def test_no_reply_raises_at_the_deadline() -> None:
    with _scripted(lambda _: []) as address, pytest.raises(DeadlineError, match=r"no reply .* within 0.1 s"):
        _predict(address, 0.1)


def test_a_stopped_server_raises_at_the_deadline() -> None:
    with _scripted(lambda _: []) as address:
        client = ServerClient(address, REQUEST.cost, 0.1)
    try:
        with pytest.raises(DeadlineError):
            client.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 1)
    finally:
        client.close()


def test_the_client_reconnects_to_a_restarted_server() -> None:
    with running() as server:
        client = ServerClient(server.address, REQUEST.cost)
        address = server.address
    with running(address=address, waits=False):  # while it starts, its refusals say when to retry
        got = client.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 1)
    client.close()
    np.testing.assert_array_equal(got.costs, prediction(REQUEST).costs)


def test_a_connection_lost_between_two_requests_causes_no_second_reply() -> None:
    received_ids = []

    def replies(message: Predict) -> list[list[bytes]]:
        received_ids.append(message.id)
        return [_reply(message)]

    with _scripted(replies) as address:
        client = ServerClient(address, REQUEST.cost, 60.0)
    with _scripted(replies, address=address):
        for _ in range(2):
            client.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, REQUEST.n_videos)
    client.close()
    assert len(received_ids) == len(set(received_ids)) == 2


def test_a_request_lost_with_its_connection_is_sent_again() -> None:
    """Two servers use one address in turn: the first stops after it has received the request."""
    received = threading.Event()

    def receive(_: Predict) -> list[list[bytes]]:
        received.set()
        return []

    with _scripted(receive) as address:
        client = ServerClient(address, REQUEST.cost, 60.0)
        got: list[Prediction] = []
        predicting = threading.Thread(
            target=lambda: got.append(client.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 1))
        )
        predicting.start()
        assert received.wait(patience(60))
    with running(address=address):
        predicting.join()
    client.close()
    np.testing.assert_array_equal(got[0].costs, prediction(REQUEST).costs)


def test_a_reply_to_an_earlier_request_is_ignored() -> None:
    stale = encode_reply(PredictionReply(b"earlier", prediction(request(seed=9))))
    with _scripted(lambda message: [stale, _reply(message)]) as address:
        np.testing.assert_array_equal(_predict(address).costs, prediction(REQUEST).costs)


def test_a_refusal_as_busy_is_retried() -> None:
    received_ids: list[bytes] = []

    def replies(message: Predict) -> list[list[bytes]]:
        received_ids.append(message.id)
        busy = Refusal(message.id, "busy", "full", 0.001)
        return [encode_reply(busy) if len(received_ids) < 4 else _reply(message)]

    with _scripted(replies) as address:
        _predict(address)
    assert len(set(received_ids)) == 4


def test_a_server_that_remains_busy_raises_at_the_deadline() -> None:
    with (
        _scripted(lambda message: [encode_reply(Refusal(message.id, "busy", "full", 0.01))]) as address,
        pytest.raises(DeadlineError, match="it stayed busy: full"),
    ):
        _predict(address, 0.1)


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (Refusal(b"", "bad", "w"), MismatchError),
        (Refusal(b"", "expired", "w"), DeadlineError),
        (Refusal(b"", "nonfinite", "w"), NonFiniteError),
        (Refusal(b"", "draining", "w"), PredictorError),
        (Refusal(b"", "failed", "w"), PredictorError),
        (Refusal(b"", "superseded", "w"), PredictorError),
        (Refusal(b"", "unavailable", "w"), PredictorError),  # after a request, the client does not wait
    ],
)
def test_each_refusal_raises_its_error(refusal: Refusal, error: type[PredictorError]) -> None:
    with (
        _scripted(lambda message: [encode_reply(replace(refusal, id=message.id))]) as address,
        pytest.raises(PredictorError, match=rf"refused \({refusal.status}\): w") as caught,
    ):
        _predict(address)
    assert type(caught.value) is error


def test_a_refused_handshake_is_an_error() -> None:
    def refuse(message: Hello) -> list[bytes]:
        return encode_reply(Refusal(message.id, "draining", "the server is stopping"))

    with _scripted(lambda _: [], refuse) as address, pytest.raises(PredictorError, match="draining"):
        ServerClient(address, GoalCost())


def test_the_client_waits_for_a_server_that_is_not_ready_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    received_ids: list[bytes] = []

    def loading(message: Hello) -> list[bytes]:
        received_ids.append(message.id)
        return encode_reply(Refusal(message.id, "unavailable", "the model is not ready yet: loading", 0.001))

    def soon(message: Hello) -> list[bytes]:
        return loading(message) if len(received_ids) < 3 else encode_reply(replace(WELCOME, id=message.id))

    with _scripted(lambda message: [_reply(message)], soon) as address:
        _predict(address)
        waiting = f"waiting up to 60 s for the server at {address}: the model is not ready yet: loading ..."
    assert waiting in " ".join(capsys.readouterr().err.split())
    with _scripted(lambda _: [], loading) as address, pytest.raises(PredictorError, match="not ready yet: loading"):
        ServerClient(address, GoalCost(), load_timeout_s=0.1)


def test_a_server_that_loads_has_longer_than_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    began_s = time.monotonic()

    def loading(message: Hello) -> list[bytes]:
        is_ready = time.monotonic() - began_s > 0.5
        refusal = Refusal(message.id, "unavailable", "the model is not ready yet: warming", 0.05)
        return encode_reply(replace(WELCOME, id=message.id) if is_ready else refusal)

    monkeypatch.setattr(client_module, "_CONNECT_TIMEOUT_S", patience(0.1))
    with _scripted(lambda message: [_reply(message)], loading) as address:
        _predict(address)
    assert time.monotonic() - began_s > 0.5


def test_another_version_is_refused_by_name() -> None:
    def newer(message: Hello) -> list[bytes]:
        header = msgpack.unpackb(encode_reply(replace(WELCOME, id=message.id))[0])
        header["version"] = 6
        return [msgpack.packb(header)]

    with (
        _scripted(lambda _: [], newer) as address,
        pytest.raises(MismatchError, match="expected messages of version 5, got version 6"),
    ):
        ServerClient(address, GoalCost())


def test_an_invalid_reply_is_an_error() -> None:
    with _scripted(lambda _: [[b"\xc1"]]) as address, pytest.raises(MismatchError, match="sent an invalid message"):
        _predict(address)


def test_a_welcome_instead_of_a_prediction_is_an_error() -> None:
    with (
        _scripted(lambda message: [encode_reply(replace(WELCOME, id=message.id))]) as address,
        pytest.raises(MismatchError, match="sent a reply of another kind"),
    ):
        _predict(address)


@pytest.mark.parametrize("other", [request(n=4), request(n_videos=1), request(horizon=2)])
def test_a_prediction_of_another_size_is_an_error(other: PredictionRequest) -> None:
    with (
        _scripted(lambda message: [encode_reply(PredictionReply(message.id, prediction(other)))]) as address,
        pytest.raises(MismatchError, match="expected costs"),
    ):
        _predict(address)


def test_an_invalid_request_is_not_sent() -> None:
    requests: list[Predict] = []

    def replies(message: Predict) -> list[list[bytes]]:
        requests.append(message)
        return []

    with _scripted(replies) as address:
        client = ServerClient(address, GoalCost())
        big = request(n=21)
        with pytest.raises(MismatchError, match="number of candidates"):
            client.predict(big.context, big.candidates, big.goal, 1)
        client.close()
    assert requests == []


def test_the_deadline_sent_is_the_remaining_time() -> None:
    deadlines: list[float] = []

    def replies(message: Predict) -> list[list[bytes]]:
        deadlines.append(message.deadline_s)
        time.sleep(0.05)
        return [encode_reply(Refusal(message.id, "busy", "full", 0.001)) if len(deadlines) < 2 else _reply(message)]

    with _scripted(replies) as address:
        _predict(address, 20.0)
    assert deadlines[1] < deadlines[0] <= 20.0
