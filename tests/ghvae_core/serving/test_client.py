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

ASKED = request()
WELCOME = Welcome(b"", SPEC, ServerLimits(max_waiting=1))
Answers = Callable[[Predict], list[list[bytes]]]  # the messages that a request is answered with


@contextmanager
def _scripted(
    answers: Answers, welcome: Callable[[Hello], list[bytes]] | None = None, address: str = "tcp://127.0.0.1:0"
) -> Iterator[str]:
    """Play a server that answers hellos properly and requests by `answers`; yield its address."""
    stop = threading.Event()
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.bind(address)
    address = router.get_string(zmq.LAST_ENDPOINT)

    def play() -> None:
        while not stop.is_set():
            if router.poll(10):
                sender, *parts = router.recv_multipart()
                message = decode_request(parts)
                if isinstance(message, Hello):
                    proper = encode_reply(replace(WELCOME, id=message.id))
                    router.send_multipart([sender, *(welcome(message) if welcome else proper)])
                else:
                    for answer in answers(message):
                        router.send_multipart([sender, *answer])

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield str(address)
    finally:
        stop.set()
        thread.join()
        router.close(linger=0)
        context.term()


def _predict(address: str, timeout_s: float = 60.0) -> Prediction:
    client = ServerClient(address, ASKED.cost, timeout_s)
    try:
        return client.predict(ASKED.context, ASKED.candidates, ASKED.goal, ASKED.n_videos)
    finally:
        client.close()


def _answer(message: Predict) -> list[bytes]:
    return encode_reply(PredictionReply(message.id, prediction(message.request)))


def test_a_live_server_is_asked_and_answers() -> None:
    with running() as server:
        client = ServerClient(server.address, ASKED.cost)
        assert client.spec == replace(SPEC, name="server")
        for seed in range(3):
            asked = request(seed=seed)
            got = client.predict(asked.context, asked.candidates, asked.goal, 2)
            np.testing.assert_array_equal(got.costs, prediction(asked).costs)
            np.testing.assert_array_equal(got.videos, prediction(asked).videos)
            assert got.timing_s["round_trip"] > 0
        client.close()
        client.close()


def test_the_cost_travels_with_the_request() -> None:
    with running("final frames") as server:
        client = ServerClient(server.address, GoalCost(final_frames=3))
        got = client.predict(ASKED.context, ASKED.candidates, ASKED.goal, 0)
        client.close()
    assert (got.costs == 3).all()


def test_no_server_is_said_so_within_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_CONNECT_TIMEOUT_S", 0.05)
    with pytest.raises(
        PredictorError, match=r"no server at tcp://127.0.0.1:9 within 0.05 s; start one with: run_server"
    ):
        ServerClient("tcp://127.0.0.1:9", GoalCost())


@pytest.mark.parametrize("address", ["", "nonsense", "tcp://127.0.0.1", "carrier://pigeon"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(MismatchError, match="expected an address such as"):
        ServerClient(address, GoalCost())


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 61.0, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(MismatchError, match="timeout_s"):
        ServerClient("tcp://127.0.0.1:9", GoalCost(), timeout_s)


def test_a_silent_server_ends_in_an_error_at_the_deadline() -> None:
    with _scripted(lambda _: []) as address, pytest.raises(DeadlineError, match=r"no reply .* within 0.1 s"):
        _predict(address, 0.1)


def test_a_server_that_has_gone_ends_in_an_error_at_the_deadline() -> None:
    with _scripted(lambda _: []) as address:
        client = ServerClient(address, ASKED.cost, 0.1)
    try:
        with pytest.raises(DeadlineError):
            client.predict(ASKED.context, ASKED.candidates, ASKED.goal, 1)
    finally:
        client.close()


def test_a_restarted_server_is_found_again() -> None:
    with running() as server:
        client = ServerClient(server.address, ASKED.cost)
        address = server.address
    with running(address=address, waits=False):  # while it starts, it says when to come back
        got = client.predict(ASKED.context, ASKED.candidates, ASKED.goal, 1)
    client.close()
    np.testing.assert_array_equal(got.costs, prediction(ASKED).costs)


def test_a_connection_that_broke_between_two_requests_costs_no_second_answer() -> None:
    asked = []

    def answers(message: Predict) -> list[list[bytes]]:
        asked.append(message.id)
        return [_answer(message)]

    with _scripted(answers) as address:
        client = ServerClient(address, ASKED.cost, 60.0)
    with _scripted(answers, address=address):
        for _ in range(2):
            client.predict(ASKED.context, ASKED.candidates, ASKED.goal, ASKED.n_videos)
    client.close()
    assert len(asked) == len(set(asked)) == 2


def test_a_request_that_was_lost_with_its_connection_is_sent_again() -> None:
    """Two servers take turns at an address: the first dies with the request in its hands."""
    taken = threading.Event()

    def take(_: Predict) -> list[list[bytes]]:
        taken.set()
        return []

    with _scripted(take) as address:
        client = ServerClient(address, ASKED.cost, 60.0)
        got: list[Prediction] = []
        asking = threading.Thread(
            target=lambda: got.append(client.predict(ASKED.context, ASKED.candidates, ASKED.goal, 1))
        )
        asking.start()
        assert taken.wait(patience(60))
    with running(address=address):
        asking.join()
    client.close()
    np.testing.assert_array_equal(got[0].costs, prediction(ASKED).costs)


def test_an_answer_to_an_earlier_request_is_ignored() -> None:
    stale = encode_reply(PredictionReply(b"earlier", prediction(request(seed=9))))
    with _scripted(lambda message: [stale, _answer(message)]) as address:
        np.testing.assert_array_equal(_predict(address).costs, prediction(ASKED).costs)


def test_a_busy_server_is_asked_again() -> None:
    asked: list[bytes] = []

    def answers(message: Predict) -> list[list[bytes]]:
        asked.append(message.id)
        busy = Refusal(message.id, "busy", "full", 0.001)
        return [encode_reply(busy) if len(asked) < 4 else _answer(message)]

    with _scripted(answers) as address:
        _predict(address)
    assert len(set(asked)) == 4


def test_a_server_that_stays_busy_ends_in_an_error_at_the_deadline() -> None:
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
        (Refusal(b"", "unavailable", "w"), PredictorError),  # with the request in hand: nothing to wait for
    ],
)
def test_a_refusal_becomes_its_error(refusal: Refusal, error: type[PredictorError]) -> None:
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


def test_a_server_that_is_not_ready_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def loading(message: Hello) -> list[bytes]:
        asked.append(message.id)
        return encode_reply(Refusal(message.id, "unavailable", "the model is not ready yet: loading", 0.001))

    def soon(message: Hello) -> list[bytes]:
        return loading(message) if len(asked) < 3 else encode_reply(replace(WELCOME, id=message.id))

    with _scripted(lambda message: [_answer(message)], soon) as address:
        _predict(address)
    monkeypatch.setattr(client_module, "_CONNECT_TIMEOUT_S", 0.1)
    with _scripted(lambda _: [], loading) as address, pytest.raises(PredictorError, match="not ready yet: loading"):
        ServerClient(address, GoalCost())


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


def test_garbage_from_a_server_is_an_error() -> None:
    with _scripted(lambda _: [[b"\xc1"]]) as address, pytest.raises(MismatchError, match="sent an invalid message"):
        _predict(address)


def test_a_welcome_is_no_answer() -> None:
    with (
        _scripted(lambda message: [encode_reply(replace(WELCOME, id=message.id))]) as address,
        pytest.raises(MismatchError, match="sent a reply of another kind"),
    ):
        _predict(address)


@pytest.mark.parametrize("other", [request(n=4), request(n_videos=1), request(horizon=2)])
def test_an_answer_of_another_size_is_an_error(other: PredictionRequest) -> None:
    with (
        _scripted(lambda message: [encode_reply(PredictionReply(message.id, prediction(other)))]) as address,
        pytest.raises(MismatchError, match="expected costs"),
    ):
        _predict(address)


def test_a_request_that_does_not_fit_is_not_even_sent() -> None:
    asked: list[Predict] = []

    def answers(message: Predict) -> list[list[bytes]]:
        asked.append(message)
        return []

    with _scripted(answers) as address:
        client = ServerClient(address, GoalCost())
        big = request(n=21)
        with pytest.raises(MismatchError, match="number of candidates"):
            client.predict(big.context, big.candidates, big.goal, 1)
        client.close()
    assert asked == []


def test_the_deadline_that_is_sent_is_what_is_left() -> None:
    deadlines: list[float] = []

    def answers(message: Predict) -> list[list[bytes]]:
        deadlines.append(message.deadline_s)
        time.sleep(0.05)
        return [encode_reply(Refusal(message.id, "busy", "full", 0.001)) if len(deadlines) < 2 else _answer(message)]

    with _scripted(answers) as address:
        _predict(address, 20.0)
    assert deadlines[1] < deadlines[0] <= 20.0
