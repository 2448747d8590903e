"""Windows of episodes for the evaluation: how they are drawn, and their context, actions and frames to predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from configs.loader import Config, load
from data_collection.episode import Episode, EpisodeError
from data_collection.formats.reader import KINDS, Recording, find, read, read_names
from data_collection.formats.video import VideoReading
from ghvae_core.data.dataset import model_frames
from ghvae_core.evaluation.held_out import training_camera, training_stride
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.models.checkpoint import CheckpointInfo

Candidates = Literal["executed", "drawn"]  # action sequences: of other windows, or of steps drawn one by one

_NOTHING = (np.empty((0, 0, 0, 0, 3), np.uint8), np.empty((0, 0, 0), np.float32))  # frames and actions of no window


class EvaluationConfig(Config):
    """The protocol: number and length of the windows, samples, action sensitivity."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"validation_share": "validation_fraction"}

    n_windows: int = Field(default=256, ge=2)  # RoboNet's test set has 256 videos
    n_context: int | None = Field(default=None, ge=1)  # frames; None: as the first checkpoint was trained with
    n_predicted: int | None = Field(default=None, ge=1)  # frames; None: as the first checkpoint was trained (paper: 10)
    # random: windows from all over an episode; ours. zero: the first frames of each episode, as in RoboNet's rows.
    first_frame: Literal["random", "zero"] = "random"
    # Fraction of the episodes, chosen by their names as in training: 0.05 of a training folder are those that training
    # held out. 1: all episodes; ours.
    validation_fraction: float = Field(default=1.0, gt=0, le=1)
    only_names: str | None = None  # text file of episode file names, one a line, such as RoboNet's 256; None: all
    video_stride: int | None = Field(default=None, ge=1)  # every n-th frame of videos; None: as the first checkpoint
    batch_windows: int = Field(default=16, ge=1)  # about 1 GB with the tiny model; affects the sampled latents; ours
    # For each window; 0: no row of samples; 100 in the rows of SVG and FitVid, 10 suits a CPU; ours
    n_samples: int = Field(default=1, ge=0)
    sensitivity_windows: int = Field(default=64, ge=2)  # whose executed actions are ranked; ours
    sensitivity_candidates: Candidates = "executed"  # source of the other action sequences; ours

    def lengths(self, info: CheckpointInfo) -> tuple[int, int]:
        """Return the numbers of context frames and of predicted frames."""
        return self.n_context or info.n_context, self.n_predicted or info.horizon


class RunEvaluationConfig(Config):
    """The sections of `--set`."""

    evaluation: EvaluationConfig


@dataclass(frozen=True)
class Clips:
    """Windows of episodes, in the random order in which they were drawn."""

    frames: NDArray[np.uint8]  # (N, n_context + T, px, px, 3) RGB
    actions: NDArray[np.float32]  # (N, n_context + T - 1, A) raw; action t leads from frame t to frame t + 1
    names: Sequence[str]  # (N,) episode, a space, and its first frame
    n_context: int
    refused: Sequence[str] = ()  # reasons why episodes were skipped

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

        The actions between context frames are unchanged, so that only the conditioning of the future changes. As the
        order of the windows is random, so is the assignment, and no window keeps its own actions.
        """
        actions = self.actions.copy()
        actions[:, self.n_context - 1 :] = np.roll(self.actions, 1, axis=0)[:, self.n_context - 1 :]
        return Clips(self.frames, actions, self.names, self.n_context)


def load_evaluation(overrides: Sequence[str]) -> EvaluationConfig:
    """Load the protocol; the overrides of section `evaluation` take precedence.

    Raises:
        ConfigError: As `configs.loader.load`.
    """
    return load(RunEvaluationConfig, {"evaluation": "evaluation/frames.yaml"}, overrides).evaluation


def find_episodes(folder: Path, only_names: str | None) -> list[Recording]:
    """Return the episodes of a folder, all of them or those whose file is named in a text file.

    Args:
        folder: Searched with its subfolders, for every format that the project reads.
        only_names: A text file, one file name a line, without folders.

    Raises:
        MetricError: There are none.
        EpisodeError: The text file cannot be read.
    """
    recordings = find(folder)
    if not recordings:
        raise MetricError(f"{folder}: expected a folder of episodes ({KINDS}), found none")
    if only_names is None:
        return recordings
    names = read_names(Path(only_names))
    chosen = [recording for recording in recordings if recording.is_in(names)]
    if not chosen:
        raise MetricError(f"{folder}: expected some of the {len(names)} files named in {only_names}, found none")
    return chosen


def draw(
    recordings: Sequence[Recording],
    infos: Sequence[CheckpointInfo],
    config: EvaluationConfig,
    rng: np.random.Generator,
) -> Iterator[Clips]:
    """Yield windows that do not overlap, at most `config.n_windows`, from as many episodes as possible.

    Episodes come in random order, with as many windows from each as it takes for all episodes to fill the number.
    Episodes that cannot be read or are too short are skipped, as in training, and reported in `Clips.refused`.

    Args:
        recordings: The episodes, at least one.
        infos: Information of the models; camera, context and horizon are those of the first.
        config: Number and length of the windows.
        rng: Chooses episodes and windows.

    Yields:
        The windows of one episode; none if the episode was skipped.

    Raises:
        MetricError: The robot of an episode differs from that of a model.
    """
    n_context, n_predicted = config.lengths(infos[0])
    video = VideoReading(config.video_stride or training_stride(infos[0]), infos[0].model.image_px)
    camera, image_px = training_camera(infos[0]), infos[0].model.image_px
    action_free = not any(info.model.action_dim for info in infos)  # then episodes without actions are accepted
    most = 1 if config.first_frame == "zero" else -(-config.n_windows // len(recordings))
    n_left = config.n_windows
    for i in rng.permutation(len(recordings)):
        if n_left == 0:
            return
        recording = recordings[i]
        try:
            episode = read(recording, camera, action_free, video)
            episode = replace(episode, frames=model_frames(episode, image_px))
            if len(episode.frames) < n_context + n_predicted:
                raise EpisodeError(
                    f"{recording.name}: expected at least {n_context + n_predicted} frames, got {len(episode.frames)}"
                )
        except EpisodeError as error:
            yield Clips(*_NOTHING, [], n_context, [str(error)])
            continue
        for info in infos:
            _check_robot(recording.name, episode, info)
        clips = _cut(episode, recording.name, (n_context, n_predicted), rng if config.first_frame == "random" else None)
        clips = clips.take(range(min(len(clips), most, n_left)))
        n_left -= len(clips)
        yield clips


def collect(parts: Sequence[Clips], rng: np.random.Generator) -> Clips:
    """Concatenate all windows, in random order.

    Raises:
        MetricError: Fewer than two windows; a standard error and shuffled actions need two.
    """
    n_windows = sum(len(part) for part in parts)
    refused = [reason for part in parts for reason in part.refused]
    if n_windows < 2:
        raise MetricError(
            f"expected at least 2 windows of episodes, found {n_windows}; {len(refused)} of {len(parts)} episodes are"
            f" unreadable or too short{f', the first: {refused[0]}' if refused else ''}"
        )
    whole = [part for part in parts if len(part)]
    names = [name for part in whole for name in part.names]
    frames, actions = (np.concatenate([getattr(part, field) for part in whole]) for field in ("frames", "actions"))
    clips = Clips(frames, actions, names, whole[0].n_context).take(rng.permutation(n_windows).tolist())
    return replace(clips, refused=refused)


def _check_robot(name: str, episode: Episode, info: CheckpointInfo) -> None:
    """Refuse an episode whose recorded steps differ from those of the model."""
    for key in ("step_limit_m", "step_s"):
        expected = getattr(info, key)
        got = episode.info.get(key, expected)
        if expected is not None and got != expected:
            raise MetricError(f"{name}: expected {key} {expected:g} as in the checkpoint, got {got}")
    expected_dim, dim = info.model.action_dim, episode.actions.shape[1]
    if expected_dim not in (0, dim):
        raise MetricError(f"{name}: expected {expected_dim}-D actions as in the checkpoint, got {dim}-D")


def _cut(episode: Episode, name: str, lengths: tuple[int, int], rng: np.random.Generator | None) -> Clips:
    """Return adjacent windows of one episode, from a random first frame, in random order.

    Args:
        episode: At model size, at least as long as one window.
        name: Name of the episode.
        lengths: Context frames and predicted frames.
        rng: None: only the window at the first frame.
    """
    length = sum(lengths)
    if rng is None:
        firsts = np.zeros(1, np.int64)
    else:
        n_fit = len(episode.frames) // length
        firsts = rng.integers(len(episode.frames) - n_fit * length + 1) + length * rng.permutation(n_fit)
    rows = firsts[:, None] + np.arange(length)  # (n_fit, length)
    return Clips(
        episode.frames[rows], episode.actions[rows[:, :-1]], [f"{name} {first}" for first in firsts], lengths[0]
    )


def _to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(frames).movedim(-1, -3).float() / 255
