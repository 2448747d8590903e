"""Windows of held-out episodes: which ones are drawn, and what the model is given of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from configs.loader import Config, load
from data_collection.episode import Episode, EpisodeError
from data_collection.robonet import read_episode
from ghvae_core.checkpoint import CheckpointInfo
from ghvae_core.dataset import is_validation, model_frames
from ghvae_core.held_out import training_camera
from ghvae_core.metrics import MetricError
from robot_bridge.camera import MODEL_IMAGE_PX


class EvaluationConfig(Config):
    """How many windows are judged, and how far they reach."""

    n_windows: int = Field(ge=2)
    n_predicted: int = Field(ge=1)  # frames after the context
    validation_share: float = Field(gt=0, le=1)  # of the episodes, by their names as in training; 1: all of them
    batch_windows: int = Field(ge=1)  # at once through the model; another number draws other samples


class RunEvaluationConfig(Config):
    """All sections that `--set` knows."""

    evaluation: EvaluationConfig


@dataclass(frozen=True)
class Clips:
    """Windows of held-out episodes, in the random order in which they were drawn."""

    frames: NDArray[np.uint8]  # (N, n_context + T, px, px, 3) RGB
    actions: NDArray[np.float32]  # (N, n_context + T - 1, A) raw; action t leads from frame t to frame t + 1
    names: Sequence[str]  # (N,) episode, a space, and its first frame
    n_context: int

    def __len__(self) -> int:
        return len(self.frames)

    def context(self) -> Tensor:
        """Return the context (N, n_context, 3, px, px) in [0, 1]."""
        return _to_tensor(self.frames[:, : self.n_context])

    def real(self) -> Tensor:
        """Return the frames to predict (N, T, 3, px, px) in [0, 1]."""
        return _to_tensor(self.frames[:, self.n_context :])

    def take(self, indices: Sequence[int]) -> Clips:
        """Return some of the windows."""
        chosen = list(indices)
        return Clips(self.frames[chosen], self.actions[chosen], [self.names[i] for i in chosen], self.n_context)

    def shuffled(self) -> Clips:
        """Return the windows with each one's future actions replaced by those of the window before it.

        The actions between context frames stay, so that only what the future should depend on is wrong. The order of
        the windows is random already, and no window keeps its own.
        """
        actions = self.actions.copy()
        actions[:, self.n_context - 1 :] = np.roll(self.actions, 1, axis=0)[:, self.n_context - 1 :]
        return Clips(self.frames, actions, self.names, self.n_context)


def load_evaluation(overrides: Sequence[str]) -> EvaluationConfig:
    """Read the protocol; the overrides of section `evaluation` decide last.

    Raises:
        ConfigError: As `configs.loader.load`.
    """
    return load(RunEvaluationConfig, {"evaluation": "evaluation/frames.yaml"}, overrides).evaluation


def draw(folder: Path, info: CheckpointInfo, config: EvaluationConfig, rng: np.random.Generator) -> Iterator[Clips]:
    """Yield windows that do not overlap, at most `config.n_windows`, from as many episodes as possible.

    Episodes come in random order, with as many windows from each as it takes for all episodes to fill the number.
    Episodes that cannot be read or are too short are passed over, as in training, but not in silence.

    Args:
        folder: Held-out episodes (RoboNet files), searched with its subfolders.
        info: What the model was made for.
        config: How many windows, how long, of which episodes.
        rng: Chooses episodes and windows.

    Yields:
        The windows of one episode; none of one that was passed over.

    Raises:
        MetricError: No episodes, or one of a robot that the model was not made for.
    """
    files = [path for path in sorted(folder.rglob("*.hdf5")) if is_validation(path.name, config.validation_share)]
    if not files:
        raise MetricError(
            f"{folder}: expected a folder of held-out episodes (*.hdf5), found none in the"
            f" evaluation.validation_share of {config.validation_share:g}"
        )
    n_left, most = config.n_windows, -(-config.n_windows // len(files))
    for i in rng.permutation(len(files)):
        if n_left == 0:
            return
        try:
            episode = read_episode(files[i], training_camera(info))
            episode = replace(episode, frames=model_frames(episode))
        except EpisodeError:
            yield _none(info, config)
            continue
        _check_robot(files[i], episode, info)
        clips = _cut(episode, str(files[i].relative_to(folder)), info.n_context, config.n_predicted, rng)
        clips = clips.take(range(min(len(clips), most, n_left)))
        n_left -= len(clips)
        yield clips


def collect(parts: Sequence[Clips], rng: np.random.Generator) -> Clips:
    """Return all windows as one, in random order.

    Raises:
        MetricError: Fewer than two, which have no standard error and no other's actions.
    """
    n_windows = sum(len(part) for part in parts)
    if n_windows < 2:
        n_empty = sum(not len(part) for part in parts)
        raise MetricError(
            f"expected at least 2 windows of held-out episodes, found {n_windows};"
            f" {n_empty} of {len(parts)} episodes are unreadable or too short"
        )
    names = [name for part in parts for name in part.names]
    frames, actions = (np.concatenate([getattr(part, field) for part in parts]) for field in ("frames", "actions"))
    return Clips(frames, actions, names, parts[0].n_context).take(rng.permutation(n_windows).tolist())


def _check_robot(path: Path, episode: Episode, info: CheckpointInfo) -> None:
    """Refuse an episode that says of itself that its steps were others than those that the model knows."""
    for name in ("step_limit_m", "step_s"):
        expected, got = getattr(info, name), episode.info.get(name, getattr(info, name))
        if got != expected:
            raise MetricError(f"{path}: expected {name} {expected:g} as in the checkpoint, got {got}")
    expected_size = (info.model.image_px, info.model.action_dim)
    if expected_size != (MODEL_IMAGE_PX, episode.actions.shape[1]):
        raise MetricError(
            f"{path}: expected frames of {expected_size[0]} px and {expected_size[1]}-D actions as in the checkpoint,"
            f" got {MODEL_IMAGE_PX} px and {episode.actions.shape[1]}-D"
        )


def _none(info: CheckpointInfo, config: EvaluationConfig) -> Clips:
    length = info.n_context + config.n_predicted
    frames = np.empty((0, length, MODEL_IMAGE_PX, MODEL_IMAGE_PX, 3), np.uint8)
    return Clips(frames, np.empty((0, length - 1, info.model.action_dim), np.float32), [], info.n_context)


def _cut(episode: Episode, name: str, n_context: int, n_predicted: int, rng: np.random.Generator) -> Clips:
    """Return the windows of one episode at model size side by side, from a random first frame on, in random order."""
    length = n_context + n_predicted
    n_fit = len(episode.frames) // length
    firsts = rng.integers(len(episode.frames) - n_fit * length + 1) + length * rng.permutation(n_fit)
    rows = firsts[:, None] + np.arange(length)  # (n_fit, length)
    names = [f"{name} {first}" for first in firsts]
    return Clips(episode.frames[rows], episode.actions[rows[:, :-1]], names, n_context)


def _to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(frames).movedim(-1, -3).float() / 255
