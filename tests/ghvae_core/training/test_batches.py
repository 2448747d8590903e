from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ghvae_core.training.batches import Augment, BatchLoader, BatchSource, MicroBatch
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.feature_cache import FeatureCache, FeatureSource
from ghvae_core.training.stages import TrainingConfig
from tests.ghvae_core.small import small_model, small_windows
from tests.patience import patience

WINDOWS = small_windows()


def _loader(
    folder: Path, n_parts: int = 1, rank: int = 0, size: int = 1, augment: Augment | None = None
) -> BatchLoader:
    group = ProcessGroup("cpu")
    group.rank, group.size = rank, size
    features = FeatureCache(
        FeatureSource(WINDOWS.frames, "data", 5, False), folder, ProcessGroup("cpu"), lambda text: None
    )
    features.fill(small_model(2), range(1, 2), in_files=False)
    training = TrainingConfig(module_steps=(1,), batch_windows=8, accumulation_steps=n_parts)
    return BatchLoader(BatchSource(WINDOWS, augment, 0), training, group, features)


def _frames(parts: Iterator[MicroBatch]) -> torch.Tensor:
    """Return the first frames of the windows of all parts."""
    return torch.cat([part.batch.frames[: part.batch.n_sequences] for part in parts])


def test_batches_are_independent_of_processes_and_parts(tmp_path: Path) -> None:
    with closing(_loader(tmp_path)) as loader:
        (whole,) = loader.parts(1, 3, 10)
    expected = _frames(iter([whole]))
    noise = whole.batch.noise(expected, torch.Generator().manual_seed(whole.noise_seed))
    for size, n_parts in ((1, 4), (2, 1), (4, 1), (2, 2)):
        parts: list[MicroBatch] = []
        for rank in range(size):
            with closing(_loader(tmp_path, n_parts, rank, size)) as loader:
                parts += loader.parts(1, 3, 10)
        assert torch.equal(_frames(iter(parts)), expected)
        actions = torch.cat([part.batch.actions.view(4, -1, 4) for part in parts], 1)
        assert torch.equal(actions.flatten(0, 1), whole.batch.actions)
        drawn = [
            part.batch.noise(_frames(iter([part])), torch.Generator().manual_seed(part.noise_seed)) for part in parts
        ]
        assert torch.equal(torch.cat(drawn), noise)


def test_augmentation_is_independent_of_the_division_of_a_batch(tmp_path: Path) -> None:
    drawn: list[float] = []

    def augment(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        drawn.append(rng.random())
        return frames ^ np.uint8(255 * drawn[-1])

    with closing(_loader(tmp_path, augment=augment)) as loader:
        expected = _frames(loader.parts(0, 0, 1))
    assert len(set(drawn)) == 8
    assert np.random.default_rng([0, 0, 0]).random() not in drawn  # augmentation is independent of the window draw
    parts: list[MicroBatch] = []
    for rank in range(2):
        with closing(_loader(tmp_path, 2, rank, 2, augment)) as loader:
            parts += loader.parts(0, 0, 1)
    assert torch.equal(_frames(iter(parts)), expected)


def test_batches_depend_on_stage_and_step_alone(tmp_path: Path) -> None:
    with closing(_loader(tmp_path)) as one, closing(_loader(tmp_path)) as other:
        in_order = [_frames(one.parts(0, step, 5)) for step in range(5)]
        for step in (4, 0, 3, 3, 1):  # none of them was prepared
            assert torch.equal(_frames(other.parts(0, step, 5)), in_order[step])
        other.forget()
        assert torch.equal(_frames(other.parts(0, 2, 5)), in_order[2])
        assert not torch.equal(_frames(other.parts(1, 2, 5)), in_order[2])


def test_the_next_batch_is_prepared_while_the_present_one_is_used(tmp_path: Path) -> None:
    calls, twice = [0], threading.Event()

    def augment(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        calls[0] += 1
        if calls[0] > 8:  # clips of a batch
            twice.set()
        return frames

    with closing(_loader(tmp_path, augment=augment)) as loader:
        parts = loader.parts(0, 0, 2)
        next(parts)
        assert twice.wait(patience(60))  # of the next step, before its request


def test_an_exception_of_the_thread_is_raised_by_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    with closing(_loader(tmp_path)) as loader:
        monkeypatch.setattr(type(WINDOWS), "batch", fail)
        with pytest.raises(OSError, match="the disk is gone"):
            next(loader.parts(0, 0, 2))


def test_cached_features_come_with_the_windows(tmp_path: Path) -> None:
    with closing(_loader(tmp_path)) as loader:
        ((batch, _),) = loader.parts(0, 0, 1)
    (expected,) = small_model(2).encode(batch.frames, 1)
    torch.testing.assert_close(batch.lower[0], expected.detach())
