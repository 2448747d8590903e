"""The gate: a good episode passes, and the smallest fault of each kind is refused by its name."""

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
MOVES_M = np.tile([[0.02, 0.0, 0.0], [0.0, 0.02, -0.01]], (3, 1))  # of a hand that plays


def moving(moves_m: NDArray[np.float64] = MOVES_M, errors_m: float = 0.0, n_errors: int = 0) -> Episode:
    """Return an episode whose hand goes where it is sent, but for an error in the first `n_errors` steps."""
    actions = np.column_stack([moves_m, np.where(np.arange(N_STEPS) % 2, 1.0, -1.0)]).astype(np.float32)
    reached = moves_m.copy()
    reached[:n_errors, 2] += errors_m * np.where(np.arange(n_errors) % 2, 1.0, -1.0)
    hands = CENTRE_M + np.vstack([np.zeros(3), np.cumsum(reached, axis=0)])
    states = np.column_stack([hands, np.zeros(N_STEPS + 1), np.ones(N_STEPS + 1)])
    return make_episode(N_STEPS, states=states, actions=actions, times_s=0.6 * np.arange(N_STEPS + 1.0))


GOOD = moving()


def changed(**changes: object) -> Episode:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


def judged(episode: Episode, n_steps: int = N_STEPS, clock_shift_s: float = 0.0) -> tuple[str, str]:
    """Return why an episode is refused, by kind and in words; empty texts where it passes."""
    try:
        check(RecordedEpisode(episode, n_steps, clock_shift_s), SPEC, CONFIG)
    except RejectedEpisodeError as refusal:
        return refusal.kind, str(refusal)
    return "", ""


PASSES = ("", "")


def says(verdict: tuple[str, str], kind: str, words: str) -> bool:
    return verdict[0] == kind and re.search(words, verdict[1]) is not None


def test_a_good_episode_passes() -> None:
    assert judged(GOOD) == PASSES


def test_an_episode_of_another_length_or_size_is_refused() -> None:
    words = r"expected frames \({}, 240, 320, 3\), got \(7, 240, 320, 3\)"
    assert says(judged(GOOD, n_steps=5), "wrong_count", words.format(6))
    assert says(judged(GOOD, n_steps=7), "wrong_count", words.format(8))
    narrow = changed(frames=GOOD.frames[:, :, :-1])
    assert says(judged(narrow), "wrong_count", r"expected .*320, 3\), got \(7, 240, 319, 3\)")


@pytest.mark.parametrize("sign", [1, -1])
def test_a_clock_may_slew_but_not_jump(sign: int) -> None:
    assert judged(GOOD, clock_shift_s=sign * 0.05) == PASSES
    assert says(judged(GOOD, clock_shift_s=sign * 0.051), "clock_jump", rf"within 0\.05 s, got .* {sign * 0.051} s")


@pytest.mark.parametrize("shift_s", [math.nan, math.inf, -math.inf])
def test_a_clock_of_which_nothing_is_known_is_refused(shift_s: float) -> None:
    assert judged(GOOD, clock_shift_s=shift_s)[0] == "clock_jump"


def stamped(lasted_s: float) -> Episode:
    """Return an episode whose step 2 lasts another time."""
    times_s = GOOD.times_s.copy()
    times_s[3:] += lasted_s - 0.6
    return changed(times_s=times_s)


@pytest.mark.parametrize(("inside_s", "outside_s"), [(0.301, 0.299), (14.999, 15.001), (0.301, 0.001), (0.301, -0.6)])
def test_a_step_lasts_neither_too_short_nor_too_long(inside_s: float, outside_s: float) -> None:
    assert judged(stamped(inside_s)) == PASSES
    words = rf"expected steps of 0\.3 to 15 s, got {outside_s:.3f} s for step 2"
    assert says(judged(stamped(outside_s)), "wrong_stamps", words)


def test_a_step_is_at_most_as_long_as_the_arm_may_go() -> None:
    for length_m, is_right in ((0.1, True), (0.1001, False)):
        moves_m = MOVES_M.copy()
        moves_m[4] = (0.0, -0.8 * length_m, 0.6 * length_m)
        verdict = judged(moving(moves_m))
        words = r"applied steps of at most 0\.1 m, got 0\.1001 m"
        assert verdict == PASSES if is_right else says(verdict, "wrong_actions", words)


@pytest.mark.parametrize("command", [0.0, 0.999, -1.001])
def test_a_gripper_command_opens_or_closes(command: float) -> None:
    actions = GOOD.actions.copy()
    actions[5, 3] = command
    assert says(judged(changed(actions=actions)), "wrong_actions", r"gripper commands -1 or \+1, got other values")


@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_hand_stays_near_its_workspace(axis: int, side: str) -> None:
    for beyond_m, is_right in ((0.0499, True), (0.051, False)):
        states = GOOD.states.copy()
        hand = states[:, axis]
        low, high = SPEC.limits.workspace_low_m[axis], SPEC.limits.workspace_high_m[axis]
        states[:, axis] += high + beyond_m - hand.max() if side == "high" else low - beyond_m - hand.min()
        verdict = judged(changed(states=states))
        words = r"at most 0\.05 m outside the workspace, got 0\.051 m"
        assert verdict == PASSES if is_right else says(verdict, "out_of_bounds", words)


def with_frame(left: object, right: object) -> Episode:
    """Return an episode in which one frame has two colours only, one in each half."""
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
def test_one_frame_that_shows_nothing_is_refused(
    inside: tuple[object, object], outside: tuple[object, object], words: str
) -> None:
    assert judged(with_frame(*inside)) == PASSES
    assert says(judged(with_frame(*outside)), "bad_light", words)


def repeating(n_equal: int) -> NDArray[np.uint8]:
    """Return frames the last of which are equal."""
    frames = make_frames(N_STEPS + 1)
    frames[-n_equal:] = frames[-1]
    return frames


def test_a_camera_may_not_freeze_while_the_hand_moves() -> None:
    assert judged(changed(frames=repeating(2))) == PASSES
    words = "at most 2 equal frames in a row while the hand moves, got 3: a frozen camera"
    assert says(judged(changed(frames=repeating(3))), "frozen_camera", words)
    assert says(judged(changed(frames=repeating(7))), "frozen_camera", "got 7")


def test_a_image_may_stay_as_it_is_while_the_hand_does() -> None:
    moves_m = MOVES_M.copy()
    moves_m[2:] *= 0.4  # at most 9 mm a step
    assert judged(dataclasses.replace(moving(moves_m), frames=repeating(4))) == PASSES


def test_a_hand_that_stays_where_it_is_has_not_played() -> None:
    moves_m = np.zeros((N_STEPS, 3))
    moves_m[2, 1] = -0.0051
    assert judged(moving(moves_m)) == PASSES
    moves_m[2, 1] = -0.0049
    assert says(judged(moving(moves_m)), "idle_arm", r"moves 0\.005 m or more, got 0\.0049 m")
    trembling = np.tile([[0.0049, 0.0, 0.0], [-0.0049, 0.0, 0.0]], (3, 1))  # far in all, and never away
    assert judged(moving(trembling))[0] == "idle_arm"


def test_a_hand_goes_where_it_is_sent_in_most_steps() -> None:
    assert judged(moving(errors_m=0.021, n_errors=3)) == PASSES
    assert judged(moving(errors_m=0.019, n_errors=6)) == PASSES
    words = r"within 0\.02 m of its target except in 50 % of the steps, got 67 %"
    assert says(judged(moving(errors_m=0.021, n_errors=4)), "off_command", words)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "kind"), [("times_s", "wrong_stamps"), ("actions", "wrong_actions"), ("states", "out_of_bounds")]
)
def test_what_is_no_number_is_refused_even_where_an_episode_holds_it(name: str, kind: str, number: float) -> None:
    spoilt = changed()
    numbers = np.array(getattr(spoilt, name))
    numbers[3] = number
    object.__setattr__(spoilt, name, numbers)  # past the check of the constructor
    assert judged(spoilt)[0] == kind


def test_the_most_basic_reason_is_reported_first() -> None:
    spoilt = changed(frames=np.zeros_like(GOOD.frames), states=np.tile(GOOD.states[0] + 5, (7, 1)))
    assert judged(spoilt, n_steps=9, clock_shift_s=9.0)[0] == "wrong_count"
    assert judged(spoilt, clock_shift_s=9.0)[0] == "clock_jump"
    assert judged(spoilt)[0] == "out_of_bounds"


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
def test_a_filter_that_means_nothing_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EpisodeFilterConfig.model_validate(changes)
