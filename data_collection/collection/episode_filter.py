"""Episode filter: checks of a complete recording, equal for every robot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from configs.loader import Config
from data_collection.episode import Episode, EpisodeError
from robot_bridge.robot import CLOSE, OPEN, RobotSpec

_ROUNDING_M = 1e-5  # of actions, which are float32


class EpisodeFilterConfig(Config):
    """Limits of an episode that is kept."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "off_command_share": "off_command_fraction",
        "shortest_step_share": "shortest_step_fraction",
    }

    frozen_frames: int = Field(
        default=2, ge=1
    )  # ours: repetitions of a frame while the hand moves that count as a frozen camera
    seen_motion_m: float = Field(default=0.01, gt=0)  # ours: hand motion in a step that must change the image
    brightness: tuple[float, float] = (10.0, 245.0)  # ours: range of the mean of each frame, 0 to 255
    contrast: float = Field(
        default=2.0, ge=0
    )  # ours: least deviation over each frame, of 255, in the colour that varies most
    moved_m: float = Field(default=0.005, gt=0)  # ours: extent of the hand's motion in an idle episode
    outside_m: float = Field(default=0.05, ge=0)  # ours: distance of the hand from the workspace
    off_command_m: float = Field(
        default=0.02, gt=0
    )  # ours: distance from its target at which a step counts as obstructed
    off_command_fraction: float = Field(
        default=0.5, ge=0, le=1
    )  # ours: of the steps; of 22 simulated episodes the worst had 17 %
    shortest_step_fraction: float = Field(default=0.5, ge=0, le=1)  # ours: of the robot's `step_s`
    longest_step_s: float = Field(default=15.0, gt=0)  # ours: a slow descent and a closing gripper take 8 s
    clock_jump_s: float = Field(default=0.05, gt=0)  # ours: change of wall clock minus monotonic clock in an episode

    @model_validator(mode="after")
    def _check_range(self) -> EpisodeFilterConfig:
        if not 0 <= self.brightness[0] < self.brightness[1] <= 255:
            raise ValueError("expected two rising numbers from 0 to 255")
        return self


class RejectedEpisodeError(EpisodeError):
    """A complete episode that is not usable for training."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind  # identifier for counts and folder names


class RecordedEpisode(NamedTuple):
    """An episode with facts about its recording that are not in its file."""

    episode: Episode
    n_steps: int  # requested number of steps
    clock_shift_s: float  # change of wall clock minus monotonic clock


def check(taken: RecordedEpisode, spec: RobotSpec, config: EpisodeFilterConfig) -> None:
    """Reject an episode that is incomplete, invalid, dark, frozen, idle, or timed inconsistently.

    Raises:
        RejectedEpisodeError: With the first reason found, basic checks first.
    """
    for kind, find_problems in _CHECKS:
        for message in find_problems(taken, spec, config):
            raise RejectedEpisodeError(kind, message)


def _count(taken: RecordedEpisode, spec: RobotSpec, _: EpisodeFilterConfig) -> Iterator[str]:
    frames, expected = taken.episode.frames, (taken.n_steps + 1, spec.camera.height_px, spec.camera.width_px, 3)
    if frames.shape != expected:
        yield f"expected frames {expected}, got {frames.shape}"


def _step_times(taken: RecordedEpisode, spec: RobotSpec, config: EpisodeFilterConfig) -> Iterator[str]:
    low, high = config.shortest_step_fraction * spec.step_s, config.longest_step_s
    lasted_s = np.diff(taken.episode.times_s)
    invalid = ~((lasted_s >= low) & (lasted_s <= high))
    if invalid.any():
        t = int(np.argmax(invalid))
        yield f"expected steps of {low:g} to {high:g} s, got {lasted_s[t]:.3f} s for step {t}"


def _clock(taken: RecordedEpisode, _: RobotSpec, config: EpisodeFilterConfig) -> Iterator[str]:
    if not abs(taken.clock_shift_s) <= config.clock_jump_s:
        yield (
            f"expected a system clock that stays within {config.clock_jump_s:g} s, got a jump of "
            f"{taken.clock_shift_s:.3f} s during the episode; let the time service slew the clock (chrony)"
        )


def _actions(taken: RecordedEpisode, spec: RobotSpec, _: EpisodeFilterConfig) -> Iterator[str]:
    actions = taken.episode.actions
    longest_m = float(np.linalg.norm(actions[:, :3], axis=1).max())
    if not longest_m <= spec.limits.step_limit_m + _ROUNDING_M:
        yield f"expected applied steps of at most {spec.limits.step_limit_m:g} m, got {longest_m:.4f} m"
    if not np.isin(actions[:, 3], (OPEN, CLOSE)).all():
        yield f"expected applied gripper commands {OPEN:+g} or {CLOSE:+g}, got other values"


def _bounds(taken: RecordedEpisode, spec: RobotSpec, config: EpisodeFilterConfig) -> Iterator[str]:
    low, high = spec.state_bounds()
    states = taken.episode.states
    beyond_m = np.maximum(low[:3] - states[:, :3], states[:, :3] - high[:3]).max()
    if not beyond_m <= config.outside_m:
        yield f"expected a hand at most {config.outside_m:g} m outside the workspace, got {beyond_m:.3f} m"


def _moved(taken: RecordedEpisode, _: RobotSpec, config: EpisodeFilterConfig) -> Iterator[str]:
    reach_m = float(np.ptp(taken.episode.states[:, :3], axis=0).max())
    if not reach_m >= config.moved_m:
        yield f"expected a hand that moves {config.moved_m:g} m or more, got {reach_m:.4f} m in a whole episode"


def _off_command(taken: RecordedEpisode, _: RobotSpec, config: EpisodeFilterConfig) -> Iterator[str]:
    share = float((_errors_m(taken.episode) > config.off_command_m).mean())
    if not share <= config.off_command_fraction:
        yield (
            f"expected a hand farther than {config.off_command_m:g} m from its target in at most "
            f"{100 * config.off_command_fraction:g} % of the steps, got {100 * share:.0f} %"
        )


def _brightness(taken: RecordedEpisode, _: RobotSpec, config: EpisodeFilterConfig) -> Iterator[str]:
    frames = taken.episode.frames
    means, contrasts = frames.mean(axis=(1, 2, 3)), frames[:, ::4, ::4].std(axis=(1, 2)).max(axis=1)
    low, high = config.brightness
    if not (low <= means.min() and means.max() <= high):
        yield f"expected frames of brightness {low:g} to {high:g}, got {means.min():.1f} to {means.max():.1f}"
    if not contrasts.min() >= config.contrast:
        deviation = f"{config.contrast:g} or more, got {contrasts.min():.2f}"
        yield f"expected frames with a deviation of {deviation}: no image content"


def _frozen(taken: RecordedEpisode, _: RobotSpec, config: EpisodeFilterConfig) -> Iterator[str]:
    frames, hands = taken.episode.frames, taken.episode.states[:, :3]
    moves = np.linalg.norm(np.diff(hands, axis=0), axis=1) > config.seen_motion_m
    same = np.array([np.array_equal(a, b) for a, b in pairwise(frames)])
    longest = _longest_run(same & moves)
    if longest >= config.frozen_frames:
        yield (
            f"expected at most {config.frozen_frames} equal frames in a row while the hand moves, got {longest + 1}: "
            "a frozen camera"
        )


def _errors_m(episode: Episode) -> NDArray[np.float64]:
    """Return the distance (T,) of the hand from the target of each applied action."""
    reached = np.diff(episode.states[:, :3], axis=0)
    errors: NDArray[np.float64] = np.linalg.norm(reached - episode.actions[:, :3], axis=1)
    return errors


def _longest_run(flags: NDArray[np.bool_]) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


_CHECKS: tuple[tuple[str, Callable[[RecordedEpisode, RobotSpec, EpisodeFilterConfig], Iterator[str]]], ...] = (
    ("wrong_count", _count),
    ("clock_jump", _clock),
    ("wrong_stamps", _step_times),
    ("wrong_actions", _actions),
    ("out_of_bounds", _bounds),
    ("bad_light", _brightness),
    ("frozen_camera", _frozen),
    ("idle_arm", _moved),
    ("off_command", _off_command),
)
