from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ghvae_core.evaluation import lpips
from ghvae_core.evaluation.lpips import CONVOLUTIONS, Lpips
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.evaluation.weights import fingerprint
from tests.reference_data import DATA

torch.set_num_threads(1)

WEIGHTS = DATA / "weights/lpips_alex_v0.1_torchvision.safetensors"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no LPIPS weights at {WEIGHTS}")


def video(frames: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(frames).movedim(-1, -3).float() / 255


@pytest.fixture
def random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of random weights whose checksum replaces the published one."""
    generator = torch.Generator().manual_seed(0)
    shapes = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    weights: dict[str, Tensor] = {}
    for level, layer in enumerate(CONVOLUTIONS):
        shape = shapes[layer]
        weights[f"features.{layer}.weight"] = torch.randn(shape, generator=generator) / np.prod(shape[1:]) ** 0.5
        weights[f"features.{layer}.bias"] = torch.zeros(shape[0])
        weights[f"lin{level}.model.1.weight"] = torch.rand(1, shape[0], 1, 1, generator=generator)
    file = tmp_path / "random_weights.safetensors"
    save_file(weights, file)
    monkeypatch.setattr(lpips, "WEIGHTS_SHA256", fingerprint(weights))
    return file


def test_each_pair_of_frames_is_independent_of_the_batch(random_weights: Path) -> None:
    metric = Lpips(random_weights)
    real, predicted = torch.rand(2, 2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    together = metric(real, predicted)
    assert together.shape == (2, 3)
    for b, t in np.ndindex(2, 3):
        single = metric(real[b : b + 1, t : t + 1], predicted[b : b + 1, t : t + 1])
        torch.testing.assert_close(together[b, t], single[0, 0])


def test_the_distance_is_zero_for_equal_frames_and_symmetric(random_weights: Path) -> None:
    metric = Lpips(random_weights)
    real, predicted = torch.rand(2, 1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert (metric(real, real) == 0).all()
    assert (metric(real, predicted) > 0).all()
    torch.testing.assert_close(metric(real, predicted), metric(predicted, real))


def test_nan_is_returned(random_weights: Path) -> None:
    real = torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    predicted = real.clone()
    predicted[0, 1] = float("nan")
    assert Lpips(random_weights)(real, predicted).isnan().tolist() == [[False, True]]


def test_the_metric_is_frozen(random_weights: Path) -> None:
    assert not any(parameter.requires_grad for parameter in Lpips(random_weights).parameters())


def test_frames_too_small_for_the_network_are_refused(random_weights: Path) -> None:
    metric = Lpips(random_weights)
    metric(torch.zeros(1, 1, 3, 31, 31), torch.zeros(1, 1, 3, 31, 31))
    with pytest.raises(MetricError, match="at least 31x31"):
        metric(torch.zeros(1, 1, 3, 30, 64), torch.zeros(1, 1, 3, 30, 64))


def test_other_weights_are_refused(random_weights: Path, tmp_path: Path) -> None:
    weights = load_file(random_weights)
    weights["lin0.model.1.weight"] += 1e-3
    other = tmp_path / "other.safetensors"
    save_file(weights, other)
    with pytest.raises(MetricError, match=r"other\.safetensors: expected the published LPIPS v0\.1 AlexNet weights"):
        Lpips(other)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all"], ids=["absent", "empty", "text"])
def test_the_error_for_an_unreadable_file_names_it(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "weights.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(MetricError, match=r"weights\.safetensors: expected a safetensors file"):
        Lpips(file)


def test_the_fingerprint_covers_names_and_values_but_not_their_order() -> None:
    a, b = torch.zeros(2), torch.ones(3)
    assert fingerprint({"a": a, "b": b}) == fingerprint({"b": b, "a": a})
    assert len({fingerprint({"a": a, "b": b}), fingerprint({"a": b, "b": a}), fingerprint({"a": a})}) == 3


@needs_weights
def test_published_distances() -> None:
    metric = Lpips(WEIGHTS)
    images = [np.asarray(Image.open(DATA / f"lpips_published/ex_{name}.png")) for name in ("ref", "p0", "p1")]
    ref, p0, p1 = (video(image[None, None]) for image in images)
    assert round(float(metric(ref, p0)), 3) == 0.722
    assert round(float(metric(ref, p1)), 3) == 0.138


@needs_weights
def test_reference_arrays() -> None:
    arrays = np.load(DATA / "metric_reference/fixed_arrays_reference.npz")
    distances = Lpips(WEIGHTS)(video(arrays["a"])[None], video(arrays["b"])[None])
    np.testing.assert_allclose(distances, arrays["lpips_alex"], atol=1e-5, rtol=0)


@needs_weights
def test_reference_of_copied_frames_of_robot_video() -> None:
    clips = video(np.load(DATA / "metric_reference/robonet_clips_shared.npz")["gt"][:16])
    real, copy = clips[:, 2:], clips[:, 1:2].expand(-1, 10, -1, -1, -1)
    expected = np.load(DATA / "metric_reference/robonet_reference_shared.npz")["copy_last/lpips_alex"][:16]
    np.testing.assert_allclose(Lpips(WEIGHTS)(real, copy), expected, atol=1e-5, rtol=0)
