"""Frechet video distance, and metrics of predictions compared with published reference values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import linalg
from torch import Tensor

from ghvae_core.evaluation import fvd
from ghvae_core.evaluation.fvd import I3d, bootstrap_error, check_length, frechet_distance
from ghvae_core.evaluation.lpips import Lpips
from ghvae_core.evaluation.metrics import MetricError, psnr, ssim
from ghvae_core.evaluation.weights_download import I3D, cache_folder
from tests.reference_data import DATA

torch.set_num_threads(1)

WEIGHTS = cache_folder() / I3D.file_name
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no I3D weights at {WEIGHTS}")


def video(frames: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(frames).movedim(-1, -3).float() / 255


@pytest.fixture(scope="module")
def random_network() -> I3d:
    """Return I3D with random weights."""
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fvd, "read_weights", lambda *_: random_weights(generator))
        return I3d(Path("random_weights"))


def random_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Return random tensors with the published names."""
    convolutions = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
    n = 192
    for name, (a, b_in, b, c_in, c, d) in fvd._MIXED.items():
        convolutions |= {
            f"{name}/Branch_0/Conv3d_0a_1x1": (n, a, 1),
            f"{name}/Branch_1/Conv3d_0a_1x1": (n, b_in, 1),
            f"{name}/Branch_1/Conv3d_0b_3x3": (b_in, b, 3),
            f"{name}/Branch_2/Conv3d_0a_1x1": (n, c_in, 1),
            f"{name}/Branch_2/Conv3d_0b_3x3": (c_in, c, 3),
            f"{name}/Branch_3/Conv3d_0b_1x1": (n, d, 1),
        }
        n = a + b + c + d
    tensors = {"Logits/Conv3d_0c_1x1/bias": torch.randn(400, generator=generator)}
    for name, (inputs, outputs, k) in {**convolutions, "Logits/Conv3d_0c_1x1": (n, 400, 1)}.items():
        scale = (2 / (inputs * k**3)) ** 0.5
        tensors[f"{name}/kernel"] = torch.randn(outputs, inputs, k, k, k, generator=generator) * scale
    for name, (_, outputs, _) in convolutions.items():
        tensors[f"{name}/bias"] = torch.randn(outputs, generator=generator) / 10
        tensors[f"{name}/mean"] = torch.randn(outputs, generator=generator) / 10
        tensors[f"{name}/var"] = torch.rand(outputs, generator=generator) + 0.5
    return tensors


def test_each_video_has_400_scores_independent_of_the_batch(random_network: I3d) -> None:
    videos = torch.rand(2, 10, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    together = random_network(videos)
    assert together.shape == (2, 400)
    torch.testing.assert_close(together[1:], random_network(videos[1:]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_the_batch_statistics_are_folded_in(random_network: I3d) -> None:
    tensors = random_weights(torch.Generator().manual_seed(0))
    h = torch.rand(1, 3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    name = "Conv3d_1a_7x7"
    padded = torch.nn.functional.pad(h, (2, 3) * 3)
    plain = torch.nn.functional.conv3d(padded, tensors[f"{name}/kernel"], stride=2)
    mean, variance, bias = (tensors[f"{name}/{part}"] for part in ("mean", "var", "bias"))
    expected = torch.nn.functional.batch_norm(plain, mean, variance, bias=bias, eps=1e-3).relu()
    torch.testing.assert_close(random_network.layers[name](h), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 7, 2, [2, 3]),
        (112, 3, 2, [0, 1]),
        (12, 3, 2, [0, 1]),
        (3, 2, 2, [0, 1]),
        (7, 3, 1, [1, 1]),
        (5, 1, 1, [0, 0]),
    ],
)
def test_odd_padding_is_larger_at_the_end(size: int, kernel: int, stride: int, expected: list[int]) -> None:
    h = torch.zeros(1, 1, size, 1, 1)
    assert fvd._same(h, (kernel, 1, 1), (stride, 1, 1)) == [0, 0, 0, 0, *expected]


def test_short_videos_and_other_shapes_are_refused(random_network: I3d) -> None:
    with pytest.raises(MetricError, match="at least 10 frames for I3D, got 9"):
        random_network(torch.zeros(1, 9, 3, 16, 16))
    for shape in ((10, 3, 16, 16), (1, 10, 16, 16, 3), (0, 10, 3, 16, 16)):
        with pytest.raises(MetricError, match=r"expected videos \(B, T, 3, H, W\)"):
            random_network(torch.zeros(shape))


def test_the_network_is_frozen(random_network: I3d) -> None:
    assert not any(parameter.requires_grad for parameter in random_network.parameters())


def test_other_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"no safetensors at all")
    with pytest.raises(MetricError, match=r"other\.safetensors: expected a safetensors file of I3D Kinetics-400 RGB"):
        I3d(tmp_path / "other.safetensors")


@needs_weights
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no reference values at {DATA}")
def test_reference_logits_of_real_robot_video() -> None:
    clips = video(np.load(DATA / "metric_reference/robonet_clips_shared.npz")["gt"][:1])
    expected = np.load(DATA / "metric_reference/robonet_reference_shared.npz")["gt/logits12"][:1]
    np.testing.assert_allclose(I3d(WEIGHTS)(clips), expected, atol=1e-3, rtol=0)


@pytest.mark.slow
@needs_weights
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no published clip at {DATA}")
def test_the_published_clip_shows_cricket() -> None:
    with Image.open(DATA / "i3d_published/v_CricketShot_g04_c01_rgb.gif") as gif:
        frames = []
        for t in range(getattr(gif, "n_frames", 1)):
            gif.seek(t)
            frames.append(np.asarray(gif.convert("RGB")))
    labels = (DATA / "i3d_published/kinetics400_label_map.txt").read_text(encoding="utf-8").splitlines()
    logits = I3d(WEIGHTS)(video(np.stack(frames)[None]))[0]
    assert labels[int(logits.argmax())] == "playing cricket"
    assert float(logits.softmax(0).max()) == pytest.approx(0.98856, abs=1e-4)
    assert float(logits.norm()) == pytest.approx(83.2416, abs=1e-3)


torch.set_num_threads(1)
REFERENCE = DATA / "metric_reference"
LPIPS_WEIGHTS = REFERENCE.parent / "weights/lpips_alex_v0.1_torchvision.safetensors"
I3D_WEIGHTS = cache_folder() / I3D.file_name  # tests do not download weights
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no reference values at {REFERENCE}")


def features(n: int, seed: int, d: int = 5) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)


@pytest.mark.parametrize("n", [4, 30], ids=["fewer videos than dimensions", "more"])
def test_the_distance_of_a_set_to_itself_is_zero(n: int) -> None:
    assert frechet_distance(features(n, 0), features(n, 0)) == pytest.approx(0, abs=1e-9)


def test_the_distance_of_known_gaussians() -> None:
    rows = np.array([[-1.0, 0], [1, 0], [0, -1], [0, 1]])  # variance 2/3 along both axes
    assert frechet_distance(rows, rows + np.array([3.0, 4.0])) == pytest.approx(25)
    assert frechet_distance(rows, rows * 3) == pytest.approx(2 * 2 / 3 * (3 - 1) ** 2)


@pytest.mark.parametrize("sizes", [(30, 40), (7, 40)])
def test_the_distance_equals_that_with_a_matrix_square_root(sizes: tuple[int, int]) -> None:
    a, b = (features(n, seed) for seed, n in enumerate(sizes))
    covariances = [np.cov(each, rowvar=False) for each in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root).real
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)


def test_nan_and_other_shapes_are_refused() -> None:
    bad = features(4, 0)
    bad[0, 0] = np.nan
    with pytest.raises(MetricError, match="expected finite features"):
        frechet_distance(features(4, 0), bad)
    for other in (features(1, 0), features(4, 0, d=3), np.zeros(4)):
        with pytest.raises(MetricError, match="at least 2 videos a set"):
            frechet_distance(features(4, 0), other)


def test_the_bootstrap_error_uses_pairs_and_decreases_with_more_videos() -> None:
    real = features(400, 0)
    groups = np.arange(400)
    assert bootstrap_error(real, real, groups, np.random.default_rng(0)) == pytest.approx(0, abs=1e-9)
    fake = real + np.random.default_rng(1).normal(size=real.shape)
    few, many = (bootstrap_error(real[:n], fake[:n], groups[:n], np.random.default_rng(0)) for n in (40, 400))
    assert 0 < many < few
    assert bootstrap_error(real, fake, groups, np.random.default_rng(0)) == many


def test_copies_of_a_video_do_not_decrease_the_error() -> None:
    real = features(40, 0)
    fake = real + np.random.default_rng(1).normal(size=real.shape)
    (reals, fakes), groups = (each.repeat(10, axis=0) for each in (real, fake)), np.arange(40).repeat(10)
    single = bootstrap_error(real, fake, np.arange(40), np.random.default_rng(0))
    assert bootstrap_error(reals, fakes, groups, np.random.default_rng(0)) == pytest.approx(single, rel=0.1)
    assert bootstrap_error(reals, fakes, np.arange(400), np.random.default_rng(0)) < single / 2


def test_too_short_videos_are_refused_before_any_is_predicted() -> None:
    check_length(10)
    with pytest.raises(
        MetricError, match=r"at least 10 frames, context included, got 9; raise evaluation\.n_predicted"
    ):
        check_length(9)


@needs_reference
def test_reference_distances_of_stored_logits() -> None:
    arrays = np.load(REFERENCE / "fixed_arrays_reference.npz")
    published = frechet_distance(arrays["i3d_logits_seed1"], arrays["i3d_logits_seed2"])
    assert published == pytest.approx(10.138085, rel=1e-5)
    clips = np.load(REFERENCE / "robonet_reference_shared.npz")
    means = json.loads((REFERENCE / "robonet_reference_shared.json").read_text(encoding="utf-8"))["means"]
    for name in ("copy_last", "noise20"):
        distance = frechet_distance(clips["gt/logits12"], clips[f"{name}/logits12"])
        assert distance == pytest.approx(means[name]["fvd12_cdfvd_svd"], rel=1e-4)


@pytest.fixture(scope="module")
def network() -> I3d:
    """I3D with its published weights."""
    if not I3D_WEIGHTS.is_file():
        pytest.skip(f"no I3D weights at {I3D_WEIGHTS}; run_evaluation --fvd fetches them")
    return I3d(I3D_WEIGHTS)


def logits(network: I3d, videos: Tensor) -> NDArray[np.float32]:
    return torch.cat([network(video[None]) for video in videos]).numpy()


@pytest.fixture(scope="module")
def real_logits(network: I3d) -> NDArray[np.float32]:
    """Return the logits of the 64 real clips, including the context."""
    frames = np.load(REFERENCE / "robonet_clips_shared.npz")["gt"]
    return logits(network, torch.tensor(frames).movedim(-1, -3).float() / 255)


def copy_last(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(frames[:, 1:2], 10, axis=1)


def noise20(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    noise = np.random.RandomState(7).randint(-20, 21, frames[:, 2:].shape)
    return np.asarray(np.clip(frames[:, 2:].astype(np.int16) + noise, 0, 255), np.uint8)


def block2(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    blocks = frames[:, 2:].reshape(len(frames), 10, 32, 2, 32, 2, 3).mean(axis=(3, 5))
    return np.asarray(np.floor(blocks + 0.5).repeat(2, axis=2).repeat(2, axis=3), np.uint8)


Predict = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def reference(predict: Predict) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Return the real clips and the predicted frames in [0, 1], and the reference values."""
    frames = np.load(REFERENCE / "robonet_clips_shared.npz")["gt"]
    means = json.loads((REFERENCE / "robonet_reference_shared.json").read_text(encoding="utf-8"))["means"]
    real, predicted = (torch.tensor(each).movedim(-1, -3).float() / 255 for each in (frames, predict(frames)))
    return real, predicted, means[predict.__name__]


@pytest.mark.slow
@needs_reference
@pytest.mark.skipif(not LPIPS_WEIGHTS.is_file(), reason=f"no LPIPS weights at {LPIPS_WEIGHTS}")
@pytest.mark.parametrize("predict", [copy_last, noise20, block2])
def test_reference_frames(predict: Predict) -> None:
    real, predicted, expected = reference(predict)
    lpips = Lpips(LPIPS_WEIGHTS)
    future = real[:, 2:]
    distance = torch.cat([lpips(a[None], b[None]) for a, b in zip(future, predicted, strict=True)])
    assert float(psnr(future, predicted).mean()) == pytest.approx(expected["psnr_skimage"], abs=1e-4)
    assert float(ssim(future, predicted).mean()) == pytest.approx(expected["ssim_wang_skimage"], abs=1e-4)
    assert float(distance.mean()) == pytest.approx(expected["lpips_alex"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_reference
@pytest.mark.parametrize("predict", [copy_last, noise20])
def test_reference_distances(predict: Predict, network: I3d, real_logits: NDArray[np.float32]) -> None:
    real, predicted, expected = reference(predict)
    fake = logits(network, torch.cat([real[:, :2], predicted], 1))
    assert frechet_distance(real_logits, fake) == pytest.approx(expected["fvd12_scipy"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_published_distance_of_fixed_arrays(network: I3d) -> None:
    """Measured on one shared core in 12 minutes: 10.138091."""
    sets = []
    for seed in (1, 2):
        videos = np.random.RandomState(seed).rand(128, 16, 224, 224, 3).astype(np.float32)
        scores = [network.scores(torch.tensor(video).permute(3, 0, 1, 2)[None]) for video in videos]
        sets.append(torch.cat(scores).numpy())
    assert frechet_distance(*sets) == pytest.approx(10.138085, rel=1e-3)
