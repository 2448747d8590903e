"""Variant B is A with the given changes."""

from pathlib import Path

import pytest

from configs.loader import ConfigError
from planner.options import PredictorChoice
from planner.trials.variant import Variant

A = Variant("A", PredictorChoice("server", Path("model"), "tcp://127.0.0.1:5555"), ("planner.horizon=8",))


def test_changes_follow_the_shared_overrides() -> None:
    b = A.changed(["planner.n_candidates=100  policy.scale='[1, 2]'", "planner.horizon=9"])
    assert b.overrides == ("planner.horizon=8", "planner.n_candidates=100", "policy.scale=[1, 2]", "planner.horizon=9")
    assert (b.name, b.predictor) == ("B", A.predictor)


def test_another_predictor_or_checkpoint_does_not_use_the_server_of_a() -> None:
    oracle = A.changed(["predictor=oracle"])
    assert (oracle.predictor.name, oracle.predictor.server, oracle.overrides) == ("oracle", None, A.overrides)
    other = A.changed(["checkpoint=other"])
    assert other.predictor == PredictorChoice("server", Path("other"))
    assert A.changed(["checkpoint=other server=ipc:///x"]).predictor.server == "ipc:///x"


def test_its_text_names_predictor_source_and_overrides() -> None:
    assert str(A) == "server tcp://127.0.0.1:5555 planner.horizon=8"
    assert str(A.changed(["predictor=oracle"])) == "oracle planner.horizon=8"
    assert str(A.changed(["predictor=in_process"])) == "in_process model planner.horizon=8"


@pytest.mark.parametrize(
    ("text", "message"),
    [("predictor=orakel", "expected one of server, in_process, oracle"), ("planner.x='1", "No closing quotation")],
)
def test_an_invalid_change_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        A.changed([text])
