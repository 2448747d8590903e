"""Every disagreement is refused by name."""

from dataclasses import replace

import pytest

from ghvae_core.predictor import MismatchError
from planner.handshake import check_fit
from planner.shooting import ShootingConfig
from tests.planner.doubles import PREDICTOR_SPEC, SPEC

CONFIG = ShootingConfig()


def test_what_fits_is_taken() -> None:
    check_fit(SPEC, PREDICTOR_SPEC, CONFIG)


def test_rounding_of_a_scale_is_no_disagreement() -> None:
    check_fit(SPEC, replace(PREDICTOR_SPEC, step_limit_m=0.20001), CONFIG)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_px", 128),
        ("action_dim", 5),
        ("step_limit_m", 0.05),
        ("step_limit_m", float("nan")),
        ("step_s", 1.0),
        ("n_context", 0),
    ],
)
def test_a_predictor_made_for_something_else_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(MismatchError, match=name):
        check_fit(SPEC, replace(PREDICTOR_SPEC, **{name: value}), CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("horizon", 11), ("n_candidates", 201)])
def test_a_planner_that_wants_too_much_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(MismatchError, match=rf"{name}: the planner wants {value}"):
        check_fit(SPEC, PREDICTOR_SPEC, CONFIG.model_copy(update={name: value}))


def test_all_disagreements_are_named_at_once() -> None:
    with pytest.raises(MismatchError, match=r"step_limit_m: .*step_s: .*horizon: "):
        check_fit(SPEC, replace(PREDICTOR_SPEC, step_limit_m=0.1, step_s=1.0, max_horizon=3), CONFIG)
    assert MismatchError.exit_code == 2
