"""The episode filter: a valid episode passes, and the smallest fault of each kind is refused by its name."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from data_collection.collection.episode_filter import EpisodeFilterConfig, RecordedEpisode, RejectedEpisodeError, check
from data_collection.episode import Episode
from tests.data_collection.episodes import SPEC, make_episode, make_frames

N_STEPS = 6
CONFIG = EpisodeFilterConfig()
CENTRE_M = np.array([0.5, 0.0, 0.15])
MOVES_M = np.tile([[0.02, 0.0, 0.0], [0.0, 0.02, -0.01]], (3, 1))  # of an episode of play


def moving(moves_m: NDArray[np.float64] = MOVES_M, errors_m: float = 0.0, n_errors: int = 0) -> Episode:
    """Return an episode that follows its commands, with an error in the first `n_errors` steps."""
    actions = np.column_stack([moves_m, np.where(np.arange(N_STEPS) % 2, 1.0, -1.0)]).astype(np.float32)
    reached = moves_m.copy()
    reached[:n_errors, 2] += errors_m * np.where(np.arange(n_errors) % 2, 1.0, -1.0)
    hands = CENTRE_M + np.vstack([np.zeros(3), np.cumsum(reached, axis=0)])
    states = np.column_stack([hands, np.zeros(N_STEPS + 1), np.ones(N_STEPS + 1)])
    return make_episode(N_STEPS, states=states, actions=actions, times_s=0.6 * np.arange(N_STEPS + 1.0))


GOOD = moving()


def changed(**changes: object) -> Episode:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


def evaluate(episode: Episode, n_steps: int = N_STEPS, clock_shift_s: float = 0.0) -> tuple[str, str]:
    """Return kind and message of the refusal of an episode; empty texts if it passes."""
    try:
        check(RecordedEpisode(episode, n_steps, clock_shift_s), SPEC, CONFIG)
    except RejectedEpisodeError as refusal:
        return refusal.kind, str(refusal)
    return "", ""


PASSES = ("", "")


def is_refused(result: tuple[str, str], kind: str, words: str) -> bool:
    return result[0] == kind and re.search(words, result[1]) is not None


def test_a_valid_episode_passes() -> None:
    assert evaluate(GOOD) == PASSES


def test_an_episode_of_another_length_or_size_is_refused() -> None:
    words = r"expected frames \({}, 240, 320, 3\), got \(7, 240, 320, 3\)"
    assert is_refused(evaluate(GOOD, n_steps=5), "wrong_count", words.format(6))
    assert is_refused(evaluate(GOOD, n_steps=7), "wrong_count", words.format(8))
    narrow = changed(frames=GOOD.frames[:, :, :-1])
    assert is_refused(evaluate(narrow), "wrong_count", r"expected .*320, 3\), got \(7, 240, 319, 3\)")


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clock_may_slew_but_not_jump(sign: int) -> None:
    assert evaluate(GOOD, clock_shift_s=sign * 0.05) == PASSES
    assert is_refused(
        evaluate(GOOD, clock_shift_s=sign * 0.051), "clock_jump", rf"within 0\.05 s, got .* {sign * 0.051} s"
    )


@pytest.mark.parametrize("shift_s", [math.nan, math.inf, -math.inf])
def test_an_unknown_clock_shift_is_refused(shift_s: float) -> None:
    assert evaluate(GOOD, clock_shift_s=shift_s)[0] == "clock_jump"


def stamped(lasted_s: float) -> Episode:
    """Return an episode with another duration of step 2."""
    times_s = GOOD.times_s.copy()
    times_s[3:] += lasted_s - 0.6
    return changed(times_s=times_s)


@pytest.mark.parametrize(("inside_s", "outside_s"), [(0.301, 0.299), (14.999, 15.001), (0.301, 0.001), (0.301, -0.6)])
def test_step_durations_are_bounded(inside_s: float, outside_s: float) -> None:
    assert evaluate(stamped(inside_s)) == PASSES
    words = rf"expected steps of 0\.3 to 15 s, got {outside_s:.3f} s for step 2"
    assert is_refused(evaluate(stamped(outside_s)), "wrong_stamps", words)


def test_step_lengths_are_limited_to_those_of_the_arm() -> None:
    for length_m, is_right in ((0.1, True), (0.1001, False)):
        moves_m = MOVES_M.copy()
        moves_m[4] = (0.0, -0.8 * length_m, 0.6 * length_m)
        result = evaluate(moving(moves_m))
        words = r"applied steps of at most 0\.1 m, got 0\.1001 m"
        assert result == PASSES if is_right else is_refused(result, "wrong_actions", words)


@pytest.mark.parametrize("command", [0.0, 0.999, -1.001])
def test_gripper_commands_open_or_close(command: float) -> None:
    actions = GOOD.actions.copy()
    actions[5, 3] = command
    assert is_refused(
        evaluate(changed(actions=actions)), "wrong_actions", r"gripper commands -1 or \+1, got other values"
    )


@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions_outside_the_workspace_are_refused(axis: int, side: str) -> None:
    for beyond_m, is_right in ((0.0499, True), (0.051, False)):
        states = GOOD.states.copy()
        hand = states[:, axis]
        low, high = SPEC.limits.workspace_low_m[axis], SPEC.limits.workspace_high_m[axis]
        states[:, axis] += high + beyond_m - hand.max() if side == "high" else low - beyond_m - hand.min()
        result = evaluate(changed(states=states))
        words = r"at most 0\.05 m outside the workspace, got 0\.051 m"
        assert result == PASSES if is_right else is_refused(result, "out_of_bounds", words)


def with_frame(left: object, right: object) -> Episode:
    """Return an episode with one frame of two colours, one in each half."""
    frames = GOOD.frames.copy()
    frames[3, :, :160], frames[3, :, 160:] = left, right  # type: ignore[call-overload]
    return changed(frames=frames)


@pytest.mark.parametrize(
    ("inside", "outside", "words"),
    [
        ((8, 12), (7, 12), r"expected frames of brightness 10 to 245, got 9\.5 to"),
        ((243, 247), (244, 247), r"expected frames of brightness 10 to 245, got .* to 245\.5"),
        ((100, 104), (100, 103), r"a deviation of 2 or more, got 1\.50: no image content"),
        (((0, 133, 0), (0, 137, 0)), ((0, 135, 0), (0, 135, 0)), r"of 2 or more, got 0\.00: no image content"),
    ],
    ids=["dark", "bright", "grey", "green"],
)
def test_one_frame_without_content_is_refused(
    inside: tuple[object, object], outside: tuple[object, object], words: str
) -> None:
    assert evaluate(with_frame(*inside)) == PASSES
    assert is_refused(evaluate(with_frame(*outside)), "bad_light", words)


def repeating(n_equal: int) -> NDArray[np.uint8]:
    """Return frames of which the last are equal."""
    frames = make_frames(N_STEPS + 1)
    frames[-n_equal:] = frames[-1]
    return frames


def test_equal_frames_during_motion_are_refused() -> None:
    assert evaluate(changed(frames=repeating(2))) == PASSES
    words = "at most 2 equal frames in a row while the hand moves, got 3: a frozen camera"
    assert is_refused(evaluate(changed(frames=repeating(3))), "frozen_camera", words)
    assert is_refused(evaluate(changed(frames=repeating(7))), "frozen_camera", "got 7")


def test_equal_frames_without_motion_pass() -> None:
    moves_m = MOVES_M.copy()
    moves_m[2:] *= 0.4  # at most 9 mm a step
    assert evaluate(dataclasses.replace(moving(moves_m), frames=repeating(4))) == PASSES


def test_an_episode_without_motion_is_refused() -> None:
    moves_m = np.zeros((N_STEPS, 3))
    moves_m[2, 1] = -0.0051
    assert evaluate(moving(moves_m)) == PASSES
    moves_m[2, 1] = -0.0049
    assert is_refused(evaluate(moving(moves_m)), "idle_arm", r"moves 0\.005 m or more, got 0\.0049 m")
    trembling = np.tile([[0.0049, 0.0, 0.0], [-0.0049, 0.0, 0.0]], (3, 1))  # a long path within a small range
    assert evaluate(moving(trembling))[0] == "idle_arm"


def test_following_errors_are_allowed_in_few_steps() -> None:
    assert evaluate(moving(errors_m=0.021, n_errors=3)) == PASSES
    assert evaluate(moving(errors_m=0.019, n_errors=6)) == PASSES
    words = r"farther than 0\.02 m from its target in at most 50 % of the steps, got 67 %"
    assert is_refused(evaluate(moving(errors_m=0.021, n_errors=4)), "off_command", words)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "kind"), [("times_s", "wrong_stamps"), ("actions", "wrong_actions"), ("states", "out_of_bounds")]
)
def test_non_finite_numbers_are_refused_by_each_check(name: str, kind: str, number: float) -> None:
    damaged = changed()
    numbers = np.array(getattr(damaged, name))
    numbers[3] = number
    object.__setattr__(damaged, name, numbers)  # past the check of the constructor
    assert evaluate(damaged)[0] == kind


def test_the_most_basic_reason_is_reported_first() -> None:
    damaged = changed(frames=np.zeros_like(GOOD.frames), states=np.tile(GOOD.states[0] + 5, (7, 1)))
    assert evaluate(damaged, n_steps=9, clock_shift_s=9.0)[0] == "wrong_count"
    assert evaluate(damaged, clock_shift_s=9.0)[0] == "clock_jump"
    assert evaluate(damaged)[0] == "out_of_bounds"


@pytest.mark.parametrize(
    "changes",
    [
        {"brightness": (245.0, 10.0)},
        {"brightness": (-1.0, 245.0)},
        {"brightness": (10.0, math.nan)},
        {"shortest_step_fraction": 1.5},
        {"brightness": (10.0, 256.0)},
        {"off_command_fraction": 1.5},
        {"clock_jump_s": math.nan},
        {"clock_jump_s": 0.0},
        {"frozen_frames": 0},
    ],
    ids=str,
)
def test_invalid_filter_configurations_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EpisodeFilterConfig.model_validate(changes)
