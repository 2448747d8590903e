"""I3D against what was published of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ghvae_core.evaluation import i3d
from ghvae_core.evaluation.i3d import I3d
from ghvae_core.evaluation.metrics import MetricError
from ghvae_core.evaluation.weights_download import I3D, cache_folder

torch.set_num_threads(1)
DATA = Path(__file__).resolve().parents[4] / "shared/data"
WEIGHTS = cache_folder() / I3D.file_name
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"no I3D weights at {WEIGHTS}")


def video(frames: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(frames).movedim(-1, -3).float() / 255


@pytest.fixture(scope="module")
def random_network() -> I3d:
    """The random_network's own layers under random weights, which no file is read for."""
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(i3d, "read_weights", lambda *_: invented(generator))
        return I3d(Path("invented"))


def invented(generator: torch.Generator) -> dict[str, Tensor]:
    """Return random tensors under the published names."""
    convolutions = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
    n = 192
    for name, (a, b_in, b, c_in, c, d) in i3d._MIXED.items():
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


def test_each_video_has_400_scores_of_its_own(random_network: I3d) -> None:
    videos = torch.rand(2, 10, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    together = random_network(videos)
    assert together.shape == (2, 400)
    torch.testing.assert_close(together[1:], random_network(videos[1:]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_the_batch_statistics_are_folded_in(random_network: I3d) -> None:
    tensors = invented(torch.Generator().manual_seed(0))
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
def test_what_is_odd_of_the_padding_goes_behind(size: int, kernel: int, stride: int, expected: list[int]) -> None:
    h = torch.zeros(1, 1, size, 1, 1)
    assert i3d._same(h, (kernel, 1, 1), (stride, 1, 1)) == [0, 0, 0, 0, *expected]


def test_short_videos_and_other_shapes_are_refused(random_network: I3d) -> None:
    with pytest.raises(MetricError, match="at least 10 frames for I3D, got 9"):
        random_network(torch.zeros(1, 9, 3, 16, 16))
    for shape in ((10, 3, 16, 16), (1, 10, 16, 16, 3), (0, 10, 3, 16, 16)):
        with pytest.raises(MetricError, match=r"expected videos \(B, T, 3, H, W\)"):
            random_network(torch.zeros(shape))


def test_the_network_is_frozen(random_network: I3d) -> None:
    assert not any(parameter.requires_grad for parameter in random_network.parameters())


def test_other_weights_are_not_called_i3d(tmp_path: Path) -> None:
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
