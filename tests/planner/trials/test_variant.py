"""What B is: A, but for what is said."""

from pathlib import Path

import pytest

from configs.loader import ConfigError
from planner.trials.variant import Variant

A = Variant("A", "server", Path("model"), "tcp://127.0.0.1:5555", ("planner.horizon=8",))


def test_changes_come_after_what_both_share() -> None:
    b = A.changed(["planner.n_candidates=100  policy.scale='[1, 2]'", "planner.horizon=9"])
    assert b.overrides == ("planner.horizon=8", "planner.n_candidates=100", "policy.scale=[1, 2]", "planner.horizon=9")
    assert (b.name, b.predictor, b.checkpoint, b.server) == ("B", A.predictor, A.checkpoint, A.server)


def test_another_predictor_or_checkpoint_does_not_ask_the_server_of_a() -> None:
    oracle = A.changed(["predictor=oracle"])
    assert (oracle.predictor, oracle.server, oracle.overrides) == ("oracle", None, A.overrides)
    other = A.changed(["checkpoint=other"])
    assert (other.checkpoint, other.server, other.predictor) == (Path("other"), None, "server")
    assert A.changed(["checkpoint=other server=ipc:///x"]).server == "ipc:///x"


def test_it_says_who_it_is() -> None:
    assert str(A) == "server tcp://127.0.0.1:5555 planner.horizon=8"
    assert str(A.changed(["predictor=oracle"])) == "oracle planner.horizon=8"
    assert str(A.changed(["predictor=in_process"])) == "in_process model planner.horizon=8"


@pytest.mark.parametrize(
    ("text", "message"),
    [("predictor=orakel", "expected one of server, in_process, oracle"), ("planner.x='1", "No closing quotation")],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        A.changed([text])
