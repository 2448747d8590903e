"""Damaged checkpoints are refused by name; interrupted writes leave no partial ones."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ghvae_core.models.checkpoint import CheckpointError, CheckpointInfo, build, load, save
from ghvae_core.models.checkpoint_files import MANIFEST, pack_tensors, sha256
from tests.ghvae_core.small import small_config, small_model
from tests.patience import patience

N_DAMAGED = 200
N_KILLS = 20

Damage = Callable[[Path, np.random.Generator], str]  # damages a folder; returns a part of the expected message


def _file(folder: Path, rng: np.random.Generator, with_manifest: bool = True) -> Path:
    files = sorted(path for path in folder.iterdir() if with_manifest or path.name != MANIFEST)
    return files[rng.integers(len(files))]


def _reseal(folder: Path) -> None:
    """Make the manifest agree with the files, as a careless or malicious copy would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {p.name: sha256(p.read_bytes()) for p in folder.iterdir() if p.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _truncate(folder: Path, rng: np.random.Generator) -> str:
    path = _file(folder, rng)
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content) - 1)])
    return path.name


def _flip_bit(folder: Path, rng: np.random.Generator) -> str:
    path = _file(folder, rng, with_manifest=False)
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content))
    return path.name


def _zero_block(folder: Path, rng: np.random.Generator) -> str:
    path = folder / f"module_{rng.integers(1, 4)}.safetensors"
    content = bytearray(path.read_bytes())
    start = int(rng.integers(len(content) // 2, len(content) - 64))  # among the weights, of which some are not 0
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    path.write_bytes(bytes(content))
    return path.name


def _swap_lower(folder: Path, rng: np.random.Generator) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        other = build(small_config(3))
    k = int(rng.integers(1, 3))
    (folder / f"module_{k}.safetensors").write_bytes(pack_tensors(other.module(k).state_dict()))
    _reseal(folder)
    return f"module_{k + 1}.safetensors"


def _newer_schema(folder: Path, rng: np.random.Generator) -> str:
    config = json.loads((folder / "config.json").read_text())
    config["schema_version"] += int(rng.integers(1, 100))
    (folder / "config.json").write_text(json.dumps(config))
    _reseal(folder)
    return "config.json"


def _newer_manifest(folder: Path, rng: np.random.Generator) -> str:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": 1 + int(rng.integers(1, 100))}))
    return folder.name


def _remove(folder: Path, rng: np.random.Generator) -> str:
    path = _file(folder, rng)
    path.unlink()
    return path.name


def _add(folder: Path, rng: np.random.Generator) -> str:
    name = f"module_{rng.integers(4, 100)}.safetensors"
    shutil.copy(folder / "module_3.safetensors", folder / name)
    if rng.integers(2):
        _reseal(folder)
    return name


def _header_bomb(folder: Path, rng: np.random.Generator) -> str:
    """Announce a header of up to 2^63 bytes."""
    path = folder / f"module_{rng.integers(1, 4)}.safetensors"
    path.write_bytes(struct.pack("<Q", 2 ** int(rng.integers(30, 64)) - 1) + path.read_bytes()[8:])
    _reseal(folder)
    return path.name


DAMAGES: list[Damage] = [
    _truncate,
    _flip_bit,
    _zero_block,
    _swap_lower,
    _newer_schema,
    _newer_manifest,
    _remove,
    _add,
    _header_bomb,
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "checkpoint"
    info = CheckpointInfo(model=small_config(3), step_limit_m=0.2, step_s=0.6, modules_trained=3)
    save(folder, small_model(3), info)
    return folder


def test_damaged_checkpoints_are_refused_by_name(whole: Path, tmp_path: Path) -> None:
    for index in range(N_DAMAGED):
        rng, damage = np.random.default_rng(index), DAMAGES[index % len(DAMAGES)]
        folder = tmp_path / f"damaged_{index}"
        shutil.copytree(whole, folder)
        name = damage(folder, rng)
        with pytest.raises(CheckpointError) as error:
            load(folder)
        message = str(error.value)
        assert name in message, (damage.__name__, message)
        assert str(folder) in message
        assert "\n" not in message
        shutil.rmtree(folder)
    assert load(whole).info.modules_trained == 3


# Saves repeatedly in a process that is killed after a random time; the files must then pass verification. Forks of one
# process are used, as importing torch for each kill would take most of the time.
_KILLS = """
import os, random, shutil, signal, sys, time
from pathlib import Path

import torch

from ghvae_core.models import checkpoint
from ghvae_core.models.checkpoint import CheckpointInfo, load, save
from ghvae_core.training.training_state import (
    OptimizerState, TrainingProgress, latest_state, load_state, load_weights, save_state
)
from tests.ghvae_core.small import small_config, small_model

folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])
rng, model = random.Random(0), small_model()
moments = OptimizerState({f"{i}.exp_avg": p.detach() for i, p in enumerate(model.parameters())}, {})
info = CheckpointInfo(model=small_config(), step_limit_m=0.2, step_s=0.6, modules_trained=2)
checkpoint.self_test_output = lambda *_: (0.5,) * 36  # kills then interrupt writing, not computing
last, cut = 0, 0
for _ in range(20 * n_kills):  # many kills can occur between two saves
    if cut == n_kills:
        break
    parent, ready = os.pipe()
    child = os.fork()
    if child == 0:
        saves = last
        while True:
            saves += 1
            progress = TrainingProgress(run="run", step=saves, saves=saves)
            save_state(folder / "state", progress, model.state_dict(), moments)
            save(folder / "checkpoint", model, info)  # replaces the previous one
            os.write(ready, b"x")
    os.close(ready)
    os.read(parent, 1)  # saving has started
    time.sleep(rng.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(parent)
    partial = [path for part in (folder, folder / "state") for path in part.glob(".*")]
    cut += bool(partial)
    for path in partial:
        shutil.rmtree(path)
    newest = latest_state(folder / "state")
    assert newest is not None
    state = load_state(newest, "run")
    load_weights(state, model)
    assert state.progress.saves > last, (state.progress.saves, last)
    last = state.progress.saves
    load(folder / "checkpoint")
print(cut)
"""


def test_a_kill_during_a_save_leaves_an_intact_newest_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLS, str(tmp_path), str(N_KILLS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(240), check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == N_KILLS, "hardly a kill came in the middle of a save"
