"""Detection and refusal of training episodes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from data_collection.formats.reader import find
from ghvae_core.data.dataset import DataConfig, digest_files, held_out_mask, load_dataset
from ghvae_core.evaluation.held_out import check_held_out, choose
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.models.checkpoint import CheckpointInfo
from tests.data_collection.formats.test_npz import write_bair
from tests.ghvae_core.episodes import STEP_LIMIT_M, STEP_S, record
from tests.ghvae_core.small import small_config

FRACTION = 0.5
LIMITS = {"step_limit_m": STEP_LIMIT_M, "step_s": STEP_S}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four episodes; training with a fraction of 0.5 holds some out."""
    folder = tmp_path_factory.mktemp("episodes")
    for index in range(4):
        record(folder / str(index % 2), index)
    return folder


def trained_on(folder: Path, config: DataConfig, **more: str | int) -> CheckpointInfo:
    """Return the information of a checkpoint trained on the folder."""
    digest = load_dataset([folder], config, 64, folder.with_name("cache"), lambda done, total: None).sha256
    return CheckpointInfo(
        model=small_config(),
        step_limit_m=STEP_LIMIT_M,
        step_s=STEP_S,
        n_context=config.n_context,
        horizon=config.horizon,
        modules_trained=1,
        provenance={"data_sha256": digest, "validation_fraction": config.validation_fraction, **more},
    )


def data(**changes: float) -> DataConfig:
    return DataConfig(horizon=3, validation_fraction=FRACTION).model_copy(update=changes)


@pytest.mark.parametrize("config", [data(), data(**LIMITS)], ids=["limits from files", "configured limits"])
def test_the_training_folder_is_recognised_for_each_source_of_limits(folder: Path, config: DataConfig) -> None:
    info = trained_on(folder, config)
    assert check_held_out(folder, info, FRACTION) == "yes, the fraction that training held out"
    for fraction in (1.0, 0.4):
        with pytest.raises(
            MetricError, match=r"trained on these .* with --set evaluation\.validation_fraction=0\.5, on"
        ):
            check_held_out(folder, info, fraction)


def test_the_camera_is_part_of_the_recorded_training_data(folder: Path) -> None:
    info = trained_on(folder, data())
    other = info.model_copy(update={"provenance": {**info.provenance, "camera": 1}})
    assert check_held_out(folder, other, FRACTION).startswith("not known")


def test_one_of_several_training_folders_is_recognised(folder: Path, tmp_path: Path) -> None:
    record(tmp_path / "more", 9)
    record(tmp_path / "more", 10)
    dataset = load_dataset([folder, tmp_path / "more"], data(), 64, tmp_path / "cache", lambda done, total: None)
    provenance = {"data_sha256": dataset.sha256, "folder_sha256": " ".join(dataset.folder_sha256)}
    info = trained_on(folder, data()).model_copy(update={"provenance": {"validation_fraction": FRACTION, **provenance}})
    assert check_held_out(folder, info, FRACTION) == "yes, the fraction that training held out"


@pytest.mark.parametrize("changes", [{"action_free": True}, {"video_stride": 3}, {"action_free": True, **LIMITS}])
def test_the_training_folder_is_recognised_for_each_reading(folder: Path, changes: dict[str, float]) -> None:
    info = trained_on(folder, data(**changes), video_stride=int(changes.get("video_stride", 1)))
    assert check_held_out(folder, info, FRACTION) == "yes, the fraction that training held out"


def test_episodes_are_identified_by_relative_path_not_by_file_name(tmp_path: Path) -> None:
    """Except in RoboNet, names include the folder, and one file may contain several episodes."""
    names = [f"{i}/a.npz" for i in range(12)]
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        write_bair(tmp_path / "data" / name)
    fraction = (
        int.from_bytes(hashlib.sha256(b"a.npz").digest()[:4], "big") / 2**32 + 1e-6
    )  # includes the bare file name
    assert 0 < held_out_mask(names, fraction).sum() < len(names)
    digest = digest_files(
        [each.path for each in find(tmp_path / "data")], tmp_path / "data", data(validation_fraction=fraction)
    )
    info = CheckpointInfo(
        model=small_config(),
        horizon=3,
        modules_trained=1,
        provenance={"data_sha256": digest, "validation_fraction": fraction},
    )
    assert check_held_out(tmp_path / "data", info, fraction) == "yes, the fraction that training held out"


def test_the_data_of_the_initial_checkpoint_is_not_known(folder: Path) -> None:
    info = trained_on(folder, data(), init_sha256="0f")
    assert check_held_out(folder, info, FRACTION) == (
        "yes in the last training, not known for the checkpoint that it started from"
    )


def test_too_few_episodes_for_a_held_out_part_are_refused(folder: Path, tmp_path: Path) -> None:
    """A folder of one episode can be one of several training folders."""
    record(tmp_path, 0)
    digest = digest_files([each.path for each in find(tmp_path)], tmp_path, data(validation_fraction=0.5))
    info = trained_on(folder, data(validation_fraction=0.5), folder_sha256=f"0f {digest}")
    with pytest.raises(MetricError, match="too few episodes"):
        check_held_out(tmp_path, info, 0.5)


def test_another_folder_or_a_checkpoint_without_provenance_is_not_known(folder: Path, tmp_path: Path) -> None:
    info = trained_on(folder, data())
    record(tmp_path, 9)
    assert check_held_out(tmp_path, info, 1.0).startswith(
        "not known, the files differ from the recorded training files"
    )
    for provenance in ({}, {"validation_fraction": FRACTION}, {"data_sha256": "0f"}):
        unrecorded = info.model_copy(update={"provenance": provenance})
        assert check_held_out(folder, unrecorded, 1.0) == "not known, the checkpoint does not record its training data"


def test_episodes_of_the_training_are_evaluated_only_on_request(folder: Path) -> None:
    info = trained_on(folder, data())
    assert check_held_out(folder, info, 1.0, "trained-on") == "no, these are the episodes of the training, as requested"


def test_the_parts_are_complementary(folder: Path) -> None:
    info, recordings = trained_on(folder, data()), find(folder)
    held_out, trained = choose(recordings, info, FRACTION, "held-out"), choose(recordings, info, 1.0, "trained-on")
    assert sorted(held_out + trained, key=recordings.index) == recordings
    assert len(held_out) == held_out_mask([each.name for each in recordings], FRACTION).sum() > 0
    assert choose(recordings, info, 1.0, "held-out") == recordings
    assert choose(recordings, info, 1e-9, "held-out") == recordings[-1:]
    with pytest.raises(MetricError, match=r"none among 1 in the evaluation\.validation_fraction of 0\.5"):
        choose(recordings[:1], info, 0.5, "held-out")


@pytest.mark.parametrize("fraction", [1e-6, FRACTION, 0.999])
def test_the_parts_are_those_of_the_training(folder: Path, tmp_path: Path, fraction: float) -> None:
    """This includes fractions that select no or all names, where training holds out the last episode."""
    config = data(validation_fraction=fraction)
    windows = load_dataset([folder], config, 64, tmp_path / "cache", lambda _done, _total: None)
    held_out = choose(find(folder), trained_on(folder, config), fraction, "held-out")
    trained = choose(find(folder), trained_on(folder, config), 1.0, "trained-on")
    n_each = len(windows.validation.starts) / len(held_out)
    assert len(windows.train.starts) == pytest.approx(n_each * len(trained))
