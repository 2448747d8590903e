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

ASKED = small_request()
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
    return InProcessPredictor(checkpoint, ASKED.cost, InProcessConfig(chunk=chunk))


def _rollout(checkpoint: Checkpoint) -> Tensor:
    """Return the frames that the bare model imagines for the example."""
    frames = torch.from_numpy(ASKED.context.frames).permute(0, 3, 1, 2)[None] / 255
    past = torch.from_numpy(ASKED.context.actions)[None].expand(len(ASKED.candidates), -1, -1)
    with torch.no_grad():
        return checkpoint.model.rollout(frames, torch.cat([past, torch.from_numpy(ASKED.candidates)], 1))


def test_the_spec_is_the_checkpoints(checkpoint: Checkpoint) -> None:
    spec = _predictor(checkpoint).spec
    assert (spec.name, spec.image_px, spec.action_dim, spec.n_context) == ("in_process", PX, 4, 2)
    assert (spec.max_horizon, spec.max_candidates, spec.step_limit_m, spec.step_s) == (HORIZON, 1000, 0.05, 0.5)
    assert spec.checkpoint == checkpoint.sha256


def test_costs_and_videos_are_those_of_the_bare_model(checkpoint: Checkpoint) -> None:
    got = _predictor(checkpoint).predict(ASKED.context, ASKED.candidates, ASKED.goal, 3)
    frames = _rollout(checkpoint)
    goal = torch.from_numpy(ASKED.goal).permute(2, 0, 1) / 255
    expected = pixel_cost(frames, goal, ASKED.cost).numpy()
    assert len(set(expected.tolist())) == len(expected)  # the example can tell candidates apart
    np.testing.assert_allclose(got.costs, expected, rtol=1e-5)
    np.testing.assert_array_equal(got.best, np.argsort(expected)[:3])
    assert got.videos.shape == (3, HORIZON, PX, PX, 3) and got.videos.dtype == np.uint8
    pictures = frames[torch.from_numpy(got.best)].permute(0, 1, 3, 4, 2).numpy()
    np.testing.assert_allclose(got.videos / 255, pictures, atol=0.51 / 255)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_chunks_do_not_change_the_answer(checkpoint: Checkpoint, chunk: int) -> None:
    whole, cut = (_predictor(checkpoint, size).evaluate(ASKED) for size in (50, chunk))
    np.testing.assert_allclose(cut.costs, whole.costs, rtol=1e-5)
    np.testing.assert_array_equal(cut.best, whole.best)
    assert np.abs(cut.videos.astype(int) - whole.videos).max() <= 1


def test_half_the_bits_rank_the_same_candidates_first(checkpoint: Checkpoint) -> None:
    exact = _predictor(checkpoint).evaluate(ASKED)
    coarse_predictor = InProcessPredictor(checkpoint, ASKED.cost, InProcessConfig(precision="bfloat16"))
    coarse_predictor.self_test()
    coarse = coarse_predictor.evaluate(ASKED)
    assert (coarse.costs != exact.costs).any()
    np.testing.assert_allclose(coarse.costs, exact.costs, rtol=0.05)
    assert np.corrcoef(np.argsort(np.argsort(coarse.costs)), np.argsort(np.argsort(exact.costs)))[0, 1] > 0.9


def test_as_many_videos_as_asked(checkpoint: Checkpoint) -> None:
    predictor = _predictor(checkpoint, 3)
    assert predictor.evaluate(replace(ASKED, n_videos=0)).videos.shape == (0, HORIZON, PX, PX, 3)
    every = predictor.evaluate(replace(ASKED, n_videos=7))
    assert sorted(every.best) == list(range(7))
    assert (np.diff(every.costs[every.best]) >= 0).all()


def test_the_same_request_has_the_same_answer(checkpoint: Checkpoint) -> None:
    first, second = (_predictor(checkpoint).evaluate(ASKED) for _ in range(2))
    np.testing.assert_array_equal(first.costs, second.costs)


def test_read_only_arrays_are_taken(checkpoint: Checkpoint) -> None:
    for array in (ASKED.context.frames, ASKED.context.actions, ASKED.candidates, ASKED.goal):
        array.flags.writeable = False
    assert np.isfinite(_predictor(checkpoint).evaluate(ASKED).costs).all()


def test_the_work_ends_when_its_time_is_over(checkpoint: Checkpoint) -> None:
    calls = count()
    with pytest.raises(DeadlineError):
        _predictor(checkpoint, 2).evaluate(ASKED, lambda: next(calls) == 6)
    assert next(calls) == 7  # not one step more


def test_a_candidate_without_a_finite_cost_is_reported_and_ranked_last(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    imagine = checkpoint.model.predict

    def with_nan(context: Tensor, actions: Tensor) -> Iterator[Tensor]:
        for frame in imagine(context, actions):
            spoilt = frame.clone()
            spoilt[0] = torch.nan
            yield spoilt

    monkeypatch.setattr(checkpoint.model, "predict", with_nan)
    got = _predictor(checkpoint).evaluate(replace(ASKED, n_videos=7))
    assert np.isnan(got.costs).tolist() == [True] + [False] * 6
    assert got.best[-1] == 0
    with pytest.raises(NonFiniteError, match="none of 7 candidates"):
        _predictor(checkpoint, chunk=1).predict(ASKED.context, ASKED.candidates, ASKED.goal, 1)


def test_a_request_that_does_not_fit_is_refused(checkpoint: Checkpoint) -> None:
    predictor = InProcessPredictor(checkpoint, GoalCost(), InProcessConfig(max_candidates=6))
    with pytest.raises(MismatchError, match="number of candidates: expected 1 to 6, got 7"):
        predictor.predict(ASKED.context, ASKED.candidates, ASKED.goal, 1)
    predictor.close()
    predictor.close()


def test_warming_up_imagines_one_full_chunk(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    imagine = checkpoint.model.predict

    def watched(context: Tensor, actions: Tensor) -> Iterator[Tensor]:
        shapes.append(tuple(actions.shape))
        return imagine(context, actions)

    monkeypatch.setattr(checkpoint.model, "predict", watched)
    predictor = _predictor(checkpoint, 5)
    assert predictor.warm_up() > 0 and predictor.warm_up(HORIZON + 7) > 0
    assert shapes == [(5, 1 + 2, 4), (5, 1 + HORIZON, 4)]


def _limit(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let memory hold so many candidates, and return a list of how many are asked for."""
    asked: list[int] = []
    imagine = checkpoint.model.predict

    def limited(context: Tensor, actions: Tensor) -> Iterator[Tensor]:
        asked.append(len(actions))
        yield next(steps := imagine(context, actions))
        if len(actions) > most:
            raise torch.OutOfMemoryError("17 GiB")
        yield from steps

    monkeypatch.setattr(checkpoint.model, "predict", limited)
    return asked


def test_what_memory_does_not_hold_is_halved_and_nothing_is_left_out(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _predictor(checkpoint).evaluate(ASKED)
    asked = _limit(checkpoint, monkeypatch, 2)
    predictor = _predictor(checkpoint)
    parts = predictor.evaluate(ASKED)
    np.testing.assert_allclose(parts.costs, whole.costs, rtol=1e-5)
    np.testing.assert_array_equal(parts.best, whole.best)
    assert predictor.chunk <= 2 and sum(n for n in asked if n <= 2) == len(ASKED.candidates)
    asked.clear()
    predictor.evaluate(ASKED)
    assert max(asked) <= 2


def test_too_little_memory_for_one_is_said_so(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    _limit(checkpoint, monkeypatch, 0)
    with pytest.raises(PredictorError, match="not even one candidate fits into the memory of cpu"):
        _predictor(checkpoint).warm_up()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step_limit_m": None}, "step_limit_m: expected a number, got none"),
        ({"step_s": None}, "step_s: expected a number, got none"),
        ({"model": {"action_dim": 5}}, "action_dim: the robot has 4, the model was trained with 5"),
        ({"model": {"action_dim": 0}}, "action_dim: the robot has 4, the model was trained with 0"),
    ],
)
def test_a_checkpoint_that_can_drive_nothing_is_refused_by_name(
    checkpoint: Checkpoint, changes: dict[str, Any], words: str
) -> None:
    model = checkpoint.info.model.model_copy(update=changes.get("model", {}))
    info = checkpoint.info.model_copy(update={**changes, "model": model})
    with pytest.raises(MismatchError, match=words):
        InProcessPredictor(replace(checkpoint, info=info), GoalCost())


def test_the_workspace_and_the_camera_are_passed_on(checkpoint: Checkpoint) -> None:
    assert (_predictor(checkpoint).spec.workspace_m, _predictor(checkpoint).spec.camera) == (None, None)
    workspace_m = (ROBOT.limits.workspace_low_m, ROBOT.limits.workspace_high_m)
    info = checkpoint.info.model_copy(update={"workspace_m": workspace_m, "camera": ROBOT.camera})
    spec = _predictor(replace(checkpoint, info=info)).spec
    assert (spec.workspace_m, spec.camera) == (workspace_m, ROBOT.camera)
