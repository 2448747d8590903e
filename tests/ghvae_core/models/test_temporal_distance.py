"""The temporal distance network and its files."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from ghvae_core.models.checkpoint_files import CheckpointError
from ghvae_core.models.temporal_distance import TemporalDistance, TemporalDistanceConfig, load, save

CONFIG = TemporalDistanceConfig(image_px=16, channels=(8, 8), max_steps=5)


@pytest.fixture
def distance() -> TemporalDistance:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TemporalDistance(CONFIG)


def test_steps_are_expected_over_all_classes(distance: TemporalDistance) -> None:
    frames, goal = torch.rand(4, 3, 16, 16), torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        logits = distance(frames, goal)
        assert logits.shape == (4, 7)  # 0 to 5 steps, and beyond
        expected = (logits.softmax(1) * torch.arange(7.0)).sum(1)
        torch.testing.assert_close(distance.steps(frames, goal), expected)
        frames[2, 0, 0, 0] = torch.nan
        assert distance.steps(frames, goal).isnan().tolist() == [False, False, True, False]


def test_a_saved_network_is_loaded_frozen(distance: TemporalDistance, tmp_path: Path) -> None:
    save(tmp_path / "d", distance, {"n_steps": 7, "error": 0.5})
    again = load(tmp_path / "d")
    assert again.config.provenance == {"n_steps": 7, "error": 0.5} and not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    frames = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again(frames, frames), distance.eval()(frames, frames))


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "other"])
def test_a_damaged_folder_is_refused_by_name(distance: TemporalDistance, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "d"
    if damage == "other":
        save(folder, distance, {})
        other = TemporalDistance(CONFIG.model_copy(update={"max_steps": 6}))
        save(tmp_path / "o", other, {})
        (folder / "distance.safetensors").write_bytes((tmp_path / "o" / "distance.safetensors").read_bytes())
    else:
        save(folder, distance, {})
        weights = folder / "distance.safetensors"
        data = bytearray(weights.read_bytes())
        if damage == "flip":
            data[-1] ^= 1
            weights.write_bytes(data)
        elif damage == "truncate":
            weights.write_bytes(data[:-4])
        else:
            weights.unlink()
    with pytest.raises(CheckpointError, match="use another copy"):
        load(folder)


def test_weights_of_another_size_are_refused(distance: TemporalDistance, tmp_path: Path) -> None:
    distance.config = CONFIG.model_copy(update={"max_steps": 9})
    save(tmp_path / "d", distance, {})
    with pytest.raises(CheckpointError, match=r"its tensors do not fit distance\.json"):
        load(tmp_path / "d")


def test_a_checkpoint_of_a_model_is_refused(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[3] / "ghvae_core/checkpoints/tiny"
    with pytest.raises(CheckpointError, match="train one with run_distance"):
        load(shipped)


@pytest.mark.parametrize("channels", [(), (8, 0), (8, 8, 8, 8, 8)])
def test_sizes_that_do_not_fit_the_image_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError, match="expected a positive number for each halving"):
        TemporalDistanceConfig(image_px=16, channels=channels)
