from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ghvae_core.goal_cost import GoalCost, pixel_cost
from ghvae_core.models.checkpoint import Checkpoint, load
from ghvae_core.predictor import DeadlineError, MismatchError, NonFiniteError, PredictorError
from ghvae_core.serving.config import InProcessConfig
from ghvae_core.serving.local import InProcessPredictor
from tests.ghvae_core.episodes import spec as robot_spec
from tests.ghvae_core.serving.small_model import HORIZON, PX, small_checkpoint, small_request

REQUEST = small_request()
ROBOT = robot_spec()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture
def checkpoint(folder: Path) -> Checkpoint:
    return load(folder)


def _predictor(checkpoint: Checkpoint, chunk: int = 50) -> InProcessPredictor:
    return InProcessPredictor(checkpoint, REQUEST.cost, InProcessConfig(chunk=chunk))


def _rollout(checkpoint: Checkpoint) -> Tensor:
    """Return the frames that the model alone predicts for the request."""
    frames = torch.from_numpy(REQUEST.context.frames).permute(0, 3, 1, 2)[None] / 255
    past = torch.from_numpy(REQUEST.context.actions)[None].expand(len(REQUEST.candidates), -1, -1)
    with torch.no_grad():
        return checkpoint.model.rollout(frames, torch.cat([past, torch.from_numpy(REQUEST.candidates)], 1))


def test_the_spec_is_read_from_the_checkpoint(checkpoint: Checkpoint) -> None:
    spec = _predictor(checkpoint).spec
    assert (spec.name, spec.image_px, spec.action_dim, spec.n_context) == ("in_process", PX, 4, 2)
    assert (spec.max_horizon, spec.max_candidates, spec.step_limit_m, spec.step_s) == (HORIZON, 1000, 0.05, 0.5)
    assert spec.checkpoint == checkpoint.sha256


def test_costs_and_videos_equal_those_of_the_model_alone(checkpoint: Checkpoint) -> None:
    got = _predictor(checkpoint).predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 3)
    frames = _rollout(checkpoint)
    goal = torch.from_numpy(REQUEST.goal).permute(2, 0, 1) / 255
    expected = pixel_cost(frames, goal, REQUEST.cost).numpy()
    assert len(set(expected.tolist())) == len(expected)  # all costs differ
    np.testing.assert_allclose(got.costs, expected, rtol=1e-5)
    np.testing.assert_array_equal(got.best, np.argsort(expected)[:3])
    assert got.videos.shape == (3, HORIZON, PX, PX, 3) and got.videos.dtype == np.uint8
    images = frames[torch.from_numpy(got.best)].permute(0, 1, 3, 4, 2).numpy()
    np.testing.assert_allclose(got.videos / 255, images, atol=0.51 / 255)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_the_chunk_size_does_not_change_the_prediction(checkpoint: Checkpoint, chunk: int) -> None:
    whole, cut = (_predictor(checkpoint, size).evaluate(REQUEST) for size in (50, chunk))
    np.testing.assert_allclose(cut.costs, whole.costs, rtol=1e-5)
    np.testing.assert_array_equal(cut.best, whole.best)
    assert np.abs(cut.videos.astype(int) - whole.videos).max() <= 1


def test_bfloat16_ranks_candidates_like_float32(checkpoint: Checkpoint) -> None:
    exact = _predictor(checkpoint).evaluate(REQUEST)
    coarse_predictor = InProcessPredictor(checkpoint, REQUEST.cost, InProcessConfig(precision="bfloat16"))
    coarse_predictor.self_test()
    coarse = coarse_predictor.evaluate(REQUEST)
    assert (coarse.costs != exact.costs).any()
    np.testing.assert_allclose(coarse.costs, exact.costs, rtol=0.05)
    assert np.corrcoef(np.argsort(np.argsort(coarse.costs)), np.argsort(np.argsort(exact.costs)))[0, 1] > 0.9


def test_the_number_of_videos_is_as_requested(checkpoint: Checkpoint) -> None:
    predictor = _predictor(checkpoint, 3)
    assert predictor.evaluate(replace(REQUEST, n_videos=0)).videos.shape == (0, HORIZON, PX, PX, 3)
    every = predictor.evaluate(replace(REQUEST, n_videos=7))
    assert sorted(every.best) == list(range(7))
    assert (np.diff(every.costs[every.best]) >= 0).all()


def test_the_same_request_has_the_same_prediction(checkpoint: Checkpoint) -> None:
    first, second = (_predictor(checkpoint).evaluate(REQUEST) for _ in range(2))
    np.testing.assert_array_equal(first.costs, second.costs)


def test_read_only_arrays_are_accepted(checkpoint: Checkpoint) -> None:
    for array in (REQUEST.context.frames, REQUEST.context.actions, REQUEST.candidates, REQUEST.goal):
        array.flags.writeable = False
    assert np.isfinite(_predictor(checkpoint).evaluate(REQUEST).costs).all()


def test_the_prediction_stops_at_the_deadline(checkpoint: Checkpoint) -> None:
    calls = count()
    with pytest.raises(DeadlineError):
        _predictor(checkpoint, 2).evaluate(REQUEST, lambda: next(calls) == 6)
    assert next(calls) == 7  # no further step


def test_a_candidate_without_a_finite_cost_is_reported_and_ranked_last(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = checkpoint.model.predict

    def with_nan(context: Tensor, actions: Tensor) -> Iterator[Tensor]:
        for frame in predict(context, actions):
            changed = frame.clone()
            changed[0] = torch.nan
            yield changed

    monkeypatch.setattr(checkpoint.model, "predict", with_nan)
    got = _predictor(checkpoint).evaluate(replace(REQUEST, n_videos=7))
    assert np.isnan(got.costs).tolist() == [True] + [False] * 6
    assert got.best[-1] == 0
    with pytest.raises(NonFiniteError, match="none of 7 candidates"):
        _predictor(checkpoint, chunk=1).predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 1)


def test_an_invalid_request_is_refused(checkpoint: Checkpoint) -> None:
    predictor = InProcessPredictor(checkpoint, GoalCost(), InProcessConfig(max_candidates=6))
    with pytest.raises(MismatchError, match="number of candidates: expected 1 to 6, got 7"):
        predictor.predict(REQUEST.context, REQUEST.candidates, REQUEST.goal, 1)
    predictor.close()
    predictor.close()


def test_warm_up_predicts_one_full_chunk(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    predict = checkpoint.model.predict

    def watched(context: Tensor, actions: Tensor) -> Iterator[Tensor]:
        shapes.append(tuple(actions.shape))
        return predict(context, actions)

    monkeypatch.setattr(checkpoint.model, "predict", watched)
    predictor = _predictor(checkpoint, 5)
    assert predictor.warm_up() > 0 and predictor.warm_up(HORIZON + 7) > 0
    assert shapes == [(5, 1 + 2, 4), (5, 1 + HORIZON, 4)]


def _limit(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Limit the memory to `most` candidates; return the list of the requested numbers."""
    requested: list[int] = []
    predict = checkpoint.model.predict

    def limited(context: Tensor, actions: Tensor) -> Iterator[Tensor]:
        requested.append(len(actions))
        yield next(steps := predict(context, actions))
        if len(actions) > most:
            raise torch.OutOfMemoryError("17 GiB")
        yield from steps

    monkeypatch.setattr(checkpoint.model, "predict", limited)
    return requested


def test_a_chunk_that_does_not_fit_into_memory_is_halved(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _predictor(checkpoint).evaluate(REQUEST)
    requested = _limit(checkpoint, monkeypatch, 2)
    predictor = _predictor(checkpoint)
    parts = predictor.evaluate(REQUEST)
    np.testing.assert_allclose(parts.costs, whole.costs, rtol=1e-5)
    np.testing.assert_array_equal(parts.best, whole.best)
    assert predictor.chunk <= 2 and sum(n for n in requested if n <= 2) == len(REQUEST.candidates)
    requested.clear()
    predictor.evaluate(REQUEST)
    assert max(requested) <= 2


def test_too_little_memory_for_one_candidate_is_reported(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    _limit(checkpoint, monkeypatch, 0)
    with pytest.raises(PredictorError, match="not even one candidate fits into the memory of cpu"):
        _predictor(checkpoint).warm_up()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step_limit_m": None}, "step_limit_m: expected a number, got none"),
        ({"step_s": None}, "step_s: expected a number, got none"),
        ({"model": {"action_dim": 5}}, "action_dim: the robot has 4, the model was trained with 5"),
        ({"model": {"action_dim": 0}}, "action_dim: the robot has 4, the model was trained with 0"),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_robot_is_refused(
    checkpoint: Checkpoint, changes: dict[str, Any], message: str
) -> None:
    model = checkpoint.info.model.model_copy(update=changes.get("model", {}))
    info = checkpoint.info.model_copy(update={**changes, "model": model})
    with pytest.raises(MismatchError, match=message):
        InProcessPredictor(replace(checkpoint, info=info), GoalCost())


def test_the_spec_contains_the_workspace_and_the_camera(checkpoint: Checkpoint) -> None:
    assert (_predictor(checkpoint).spec.workspace_m, _predictor(checkpoint).spec.camera) == (None, None)
    workspace_m = (ROBOT.limits.workspace_low_m, ROBOT.limits.workspace_high_m)
    info = checkpoint.info.model_copy(update={"workspace_m": workspace_m, "camera": ROBOT.camera})
    spec = _predictor(replace(checkpoint, info=info)).spec
    assert (spec.workspace_m, spec.camera) == (workspace_m, ROBOT.camera)
