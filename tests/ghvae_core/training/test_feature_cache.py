from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ghvae_core.models.ghvae import Ghvae
from ghvae_core.training.distributed import ProcessGroup
from ghvae_core.training.feature_cache import FeatureCache, FeatureSource
from ghvae_core.training.feature_cache_policy import FeatureCacheChoice, FeaturePolicy
from ghvae_core.training.stages import TrainingConfig
from tests.ghvae_core.runs import make_trainer, never
from tests.ghvae_core.small import PX, small_model, small_windows

WINDOWS = small_windows()
ROWS = np.array([[3, 0], [7, 11]])


def _source(data: str = "data", is_half: bool = False) -> FeatureSource:
    return FeatureSource(WINDOWS.frames, data, 5, is_half)  # 48 frames: the last part is partial


def _cache(folder: Path, source: FeatureSource | None = None) -> tuple[FeatureCache, list[str]]:
    notes: list[str] = []
    return FeatureCache(source or _source(), folder / "features", ProcessGroup("cpu"), notes.append), notes


def _exact(model: Ghvae, depth: int) -> list[torch.Tensor]:
    frames = torch.from_numpy(WINDOWS.frames[ROWS.reshape(-1)]).permute(0, 3, 1, 2).float() / 255
    return [h.detach() for h in model.encode(frames, depth)]


def _change(model: Ghvae) -> None:
    with torch.no_grad():
        model.module(2).encoder.blocks[0].conv_1.weight.mul_(2)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("in_files", [False, True])
def test_cached_features_equal_computed_ones(tmp_path: Path, in_files: bool) -> None:
    model, (cache, _) = small_model(3), _cache(tmp_path)
    cache.fill(model, range(1, 4), in_files)
    for kept, exact in zip(cache.gather(ROWS, "cpu"), _exact(model, 3), strict=True):
        torch.testing.assert_close(kept, exact)
        assert kept.dtype == torch.float32
    assert (tmp_path / "features").exists() == in_files
    cache.fill(model, range(2, 3), in_files)
    assert [*cache.levels] == [2]
    assert len(cache.gather(ROWS, "cpu")) == 1
    cache.discard()
    assert not cache.levels
    assert not (tmp_path / "features").exists()


@pytest.mark.parametrize("in_files", [False, True])
def test_features_of_other_weights_are_not_used(tmp_path: Path, in_files: bool) -> None:
    model, (cache, _) = small_model(3), _cache(tmp_path)
    cache.fill(model, range(1, 3), in_files)
    before = cache.gather(ROWS, "cpu")
    assert cache.missing(model, range(1, 3)) == []
    _change(model)
    assert cache.missing(model, range(1, 3)) == [2]
    cache.fill(model, range(1, 3), in_files)
    after = cache.gather(ROWS, "cpu")
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])
    torch.testing.assert_close(after[1], _exact(model, 2)[1])


def test_files_are_used_again_only_for_the_same_weights_and_data(tmp_path: Path) -> None:
    model = small_model(3)
    _cache(tmp_path)[0].fill(model, range(2, 3), in_files=True)
    file = tmp_path / "features" / "level_2.bin"
    written = file.stat().st_mtime_ns, file.stat().st_ino

    def fill(source: FeatureSource | None = None) -> list[str]:
        cache, notes = _cache(tmp_path, source)
        cache.fill(model, range(2, 3), in_files=True)
        torch.testing.assert_close(cache.gather(ROWS, "cpu")[0].float(), _exact(model, 2)[1], atol=0.05, rtol=0.05)
        return notes

    assert fill() == []
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == written
    assert "rebuilt" in fill(_source("other data"))[0]
    assert "rebuilt" in fill(_source("other data", is_half=True))[0]
    assert fill(_source("other data", is_half=True)) == []
    _change(model)
    assert "rebuilt" in fill()[0]
    with file.open("r+b") as opened:
        opened.truncate(100)
    assert "rebuilt" in fill()[0]
    (tmp_path / "features" / "level_2.json").write_text("{")
    assert "rebuilt" in fill()[0]
    assert fill() == []


def test_a_file_cut_off_in_the_middle_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (cache, _) = small_model(3), _cache(tmp_path)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeatureCache, "encode", fail)
        with pytest.raises(KeyboardInterrupt):
            cache.fill(model, range(1, 2), in_files=True)
    again, notes = _cache(tmp_path)
    again.fill(model, range(1, 2), in_files=True)
    assert notes == []
    torch.testing.assert_close(again.gather(ROWS, "cpu")[0], _exact(model, 1)[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_is_the_same_bit_for_bit_with_and_without_the_cache(tmp_path: Path, precision: str) -> None:
    losses = {}
    for policy, limit_gb in (("off", 8.0), ("deep", 8.0), ("all", 8.0), ("all", 0.0), ("deep", 0.0), ("auto", 8.0)):
        config = TrainingConfig.model_validate(
            {
                "module_steps": (1, 1, 8),
                "prior_finetune_steps": 3,
                "batch_windows": 4,
                "accumulation_steps": 2,
                "validation_windows": 2,
                "precision": precision,
                "feature_cache": policy,
                "feature_cache_limit_gb": limit_gb,
            }
        )
        folder = tmp_path / f"{policy} {limit_gb}"
        trainer, _, record = make_trainer(folder, config, model=small_model(3))
        trainer.train(never)
        losses[policy, limit_gb] = record.losses
    assert len(losses["off", 8.0]) == 13
    for each in losses.values():
        assert each == losses["off", 8.0]


def _policy(tmp_path: Path, **settings: object) -> FeaturePolicy:
    training = TrainingConfig.model_validate({"module_steps": (1,), **settings})
    return FeaturePolicy(training, _source(), tmp_path / "features", ProcessGroup("cpu"))


@pytest.mark.parametrize(
    ("name", "depth", "limit_gb", "expected"),
    [
        ("off", 2, 8.0, FeatureCacheChoice(range(0), False)),
        ("deep", 2, 8.0, FeatureCacheChoice(range(2, 3), False)),
        ("deep", 1, 0.0, FeatureCacheChoice(range(2, 2), False)),
        ("all", 2, 8.0, FeatureCacheChoice(range(1, 3), False)),
        ("all", 2, 0.0, FeatureCacheChoice(range(1, 3), True)),
        ("all", 0, 8.0, FeatureCacheChoice(range(0), False)),
    ],
)
def test_the_configured_policy_is_used(
    tmp_path: Path, name: str, depth: int, limit_gb: float, expected: FeatureCacheChoice
) -> None:
    policy = _policy(tmp_path, feature_cache=name, feature_cache_limit_gb=limit_gb)
    assert policy.choose(small_model(3), depth, 1000, _cache(tmp_path)[0]) == expected


def test_auto_compares_the_cost_of_filling_with_the_saving_of_lookups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (cache, _), policy = small_model(3), _cache(tmp_path), _policy(tmp_path)
    seconds = {1: 1.0, 2: 3.0}
    monkeypatch.setattr(FeaturePolicy, "_encode_s", lambda self, model, depth: seconds[depth])
    monkeypatch.setattr("ghvae_core.training.feature_cache_policy.read_rate", lambda folder: 1e12)
    assert policy.choose(model, 2, 40, cache).levels == range(0)  # 48 frames to encode for 40 uses
    assert policy.choose(model, 2, 400, cache).levels == range(1, 3)
    monkeypatch.setattr(
        "ghvae_core.training.feature_cache_policy.read_rate", lambda folder: 12 * 16 * 4.0
    )  # h^2 of a frame a second
    assert policy.choose(model, 2, 400, cache).levels == range(2, 3)  # h^1 takes longer to read than to compute
    cache.fill(model, range(1, 3), in_files=False)
    monkeypatch.setattr("ghvae_core.training.feature_cache_policy.read_rate", lambda folder: 1e12)
    assert policy.choose(model, 2, 1, cache).levels == range(1, 3)  # it is in the cache


def test_a_full_disk_disables_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = _policy(tmp_path, feature_cache="all", feature_cache_limit_gb=0.0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
    assert policy.choose(small_model(3), 2, 1000, _cache(tmp_path)[0]) == FeatureCacheChoice(range(0), False)


def test_existing_files_need_no_further_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = _policy(tmp_path, feature_cache="all", feature_cache_limit_gb=0.0)
    model, (cache, _) = small_model(3), _cache(tmp_path)
    cache.fill(model, range(1, 3), in_files=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100_000}))  # the files: 135 168
    assert policy.choose(model, 2, 1000, cache) == FeatureCacheChoice(range(1, 3), True)


def test_sizes_are_counted(tmp_path: Path) -> None:
    model = small_model(2)
    expected = 4 * (8 * (PX // 2) ** 2 + 12 * (PX // 4) ** 2)
    assert _source().frame_bytes(model, range(1, 3)) == expected
    assert _source(is_half=True).size_gb(model, range(1, 3)) == pytest.approx(48 * expected / 2e9)
    cache, _ = _cache(tmp_path)
    cache.fill(model, range(1, 3), in_files=True)
    files = sum(path.stat().st_size for path in (tmp_path / "features").glob("*.bin"))
    assert files == 48 * expected
    assert json.loads((tmp_path / "features" / "level_2.json").read_text())["data"] == "data"
