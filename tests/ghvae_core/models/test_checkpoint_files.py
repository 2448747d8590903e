"""Checkpoint folders: atomic writes, manifests, packed tensors and migrations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from data_collection import atomic_io
from ghvae_core.models import checkpoint_files
from ghvae_core.models.checkpoint import CheckpointInfo
from ghvae_core.models.checkpoint_files import (
    MANIFEST,
    CheckpointError,
    CheckpointWriteError,
    pack_tensors,
    read_manifest,
    unpack_tensors,
    write_folder,
)
from tests.patience import patience

FILES = {"a.bin": b"first", "b.bin": b""}

# Writes repeatedly in a child that is killed at a random time: a fork of a small process, as importing torch is slow.
_KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from ghvae_core.models.checkpoint_files import read_manifest, write_folder

folder, rng, seen = Path(sys.argv[1]), random.Random(0), set()
write_folder(folder, {"n": b"start"}, {})
for turn in range(20):
    written, write_end = os.pipe()
    child = os.fork()
    if not child:
        n = 0
        while True:
            n += 1
            write_folder(folder, {"n": f"{turn} {n}".encode(), "more": rng.randbytes(100_000)}, {})
            os.write(write_end, b"!")
    if turn % 2:  # in every second turn the kill comes after a first write, however busy the machine is
        os.read(written, 1)
    time.sleep(rng.uniform(0.01, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(written)
    os.close(write_end)
    seen.add(read_manifest(folder)[0]["n"])
print(len(seen))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "folder", FILES, {"note": 7})
    return tmp_path / "folder"


def test_a_written_folder_is_read_with_its_metadata_and_hash(folder: Path) -> None:
    files, facts, digest = read_manifest(folder)
    assert files == FILES
    assert facts["note"] == 7
    assert digest == checkpoint_files.sha256((folder / MANIFEST).read_bytes())
    write_folder(folder, {**FILES, "a.bin": b"second"}, {"note": 7})
    assert read_manifest(folder)[2] != digest


@pytest.mark.parametrize("can_swap", [True, False])
def test_a_folder_is_replaced_atomically(folder: Path, can_swap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_swap:
        monkeypatch.setattr(atomic_io, "_exchange", lambda one, other: False)
    write_folder(folder, {"c.bin": b"third"}, {})
    assert read_manifest(folder)[0] == {"c.bin": b"third"}
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux's")
def test_folders_swap_names_in_one_step(folder: Path) -> None:
    other = folder.with_name("other")
    write_folder(other, {"c.bin": b"third"}, {})
    assert atomic_io._exchange(folder, other)
    assert (read_manifest(folder)[0], read_manifest(other)[0]) == ({"c.bin": b"third"}, FILES)
    assert not atomic_io._exchange(folder, folder.with_name("nowhere"))


def test_after_each_of_20_kills_there_is_an_intact_folder(tmp_path: Path) -> None:
    script = [sys.executable, "-c", _KILLS, str(tmp_path / "folder")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=patience(100), check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1  # the children have written
    write_folder(tmp_path / "folder", FILES, {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_only_abandoned_files_of_this_folder_are_removed(folder: Path) -> None:
    kept = [".folder.more.abcd1234", ".folder", "folder.abcd1234", ".other.abcd1234"]
    for name in (*kept, ".folder.abcd1234", ".folder.abcd1234.old"):
        folder.with_name(name).mkdir()
    write_folder(folder, FILES, {})
    assert {path.name for path in folder.parent.iterdir()} == {"folder", *kept}


def test_the_only_copy_after_a_kill_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / ".folder.abcd1234.old").mkdir()
    write_folder(tmp_path / "folder", FILES, {})
    assert (tmp_path / ".folder.abcd1234.old").exists()


def test_a_failed_rename_restores_the_old_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def refuse(path: Path, target: Path) -> None:
        if path.name.startswith(".folder.") and not path.name.endswith(".old"):
            raise OSError(30, "Read-only file system")
        rename(path, target)

    monkeypatch.setattr(atomic_io, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CheckpointWriteError, match="Read-only file system"):
        write_folder(folder, {"c.bin": b"third"}, {})
    assert read_manifest(folder)[0] == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_the_folder_has_the_usual_permissions(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "files": 3}', "\x00"])
def test_a_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json: not a manifest; the folder is damaged"):
        read_manifest(folder)


def test_a_newer_manifest_is_refused_by_name(folder: Path) -> None:
    tree = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**tree, "version": 2}))
    with pytest.raises(
        CheckpointError, match="expected manifest version 1, got 2; use a newer version of this program"
    ):
        read_manifest(folder)


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "a.bin").unlink()
    (folder / "a.bin").symlink_to(folder / "nowhere")
    with pytest.raises(CheckpointError, match=r"a\.bin: cannot be read: No such file"):
        read_manifest(folder)


def test_tensors_of_any_memory_layout_are_packed() -> None:
    tensors = {"x": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last), "n": torch.tensor(3)}
    found = unpack_tensors(pack_tensors(tensors), "x")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(CheckpointError, match="file: expected a safetensors file"):
        unpack_tensors(b"no", "file")
    with pytest.raises(CheckpointError, match="file: x holds NaN or infinity"):
        unpack_tensors(pack_tensors({"x": torch.tensor([1.0, torch.nan])}), "file")


def test_an_unsupported_dtype_is_refused() -> None:
    header = json.dumps({"weight": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [0, 2]}}).encode()
    with pytest.raises(CheckpointError, match=r"weights: expected"):
        unpack_tensors(len(header).to_bytes(8, "little") + header + b"\0\0", "weights")


GOLDEN = Path(__file__).parent / "golden"  # configurations that earlier versions wrote
PATH = Path("somewhere/config.json")


def _old(version: int = 1) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((GOLDEN / f"config_schema_{version}.json").read_bytes())
    return config


def _read(config: object) -> CheckpointInfo:
    return CheckpointInfo.model_validate_json(checkpoint_files.unpack_config(json.dumps(config).encode(), PATH))


def test_a_packed_configuration_is_unpacked_unchanged() -> None:
    info = _read(_old())
    packed = checkpoint_files.pack_config(info.model_dump(mode="json"))
    assert json.loads(packed)["schema_version"] == checkpoint_files.CURRENT
    assert CheckpointInfo.model_validate_json(checkpoint_files.unpack_config(packed, PATH)) == info


def test_version_1_becomes_a_ghvae_with_all_values() -> None:
    old = _old()
    dumped = _read(old).model_dump(mode="json")
    model = old.pop("model")
    assert {name: dumped[name] for name in old} == old
    assert model.pop("action_conditioned") is True
    assert dumped["model"] == {
        **model,
        "kind": "ghvae",
        "n_context": 2,
        "copies": 0,
        "mask_threshold": 0.15,
        "prior_frames": "all",
    }
    assert (dumped["workspace_m"], dumped["camera"]) == (None, None)


def test_version_1_in_action_free_mode_has_actions_of_no_numbers() -> None:
    old = _old()
    old["model"]["action_conditioned"] = False
    model = _read(old).model
    assert (model.action_dim, model.action_scale) == (0, ())


def test_version_2_keeps_every_value_under_the_present_names() -> None:
    old = _old(2)
    assert old.pop("schema_version") == 2
    dumped = _read(_old(2)).model_dump(mode="json")
    names = {"usual_error": "val_rmse_p95", "answer": "self_test_output"}
    # Versions 4 to 6 added these; a model without copies has no masks.
    old["model"] |= {"n_context": old["n_context"], "copies": 0, "mask_threshold": 0.15, "prior_frames": "all"}
    provenance = old.pop("provenance")
    assert {names.get(name, name): value for name, value in old.items()} | {
        "provenance": dumped["provenance"]
    } == dumped
    assert (provenance["validation_share"], provenance.pop("stage")) == (0.3, "polish")
    assert dumped["provenance"].pop("stage") == "prior_finetune"
    provenance["validation_fraction"] = provenance.pop("validation_share")
    assert dumped["provenance"] == provenance


@pytest.mark.parametrize("version", [1, 2])
def test_a_migration_step_does_not_change_its_input(version: int) -> None:
    old = _old(version)
    before = deepcopy(old)
    for step in (
        checkpoint_files._from_1_to_2,
        checkpoint_files._from_2_to_3,
        checkpoint_files._from_3_to_4,
    ):
        step(old)
        assert old == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "expected a JSON object"),
        (b"[1]", "expected a JSON object"),
        (b"\xff", "expected a JSON object"),
        (b"[" * 100_000, "expected a JSON object"),
        (b'{"schema_version": 7}', "expected schema_version 6 or less, got 7; use a newer version of this program"),
        (b'{"schema_version": 0}', "schema_version: expected a whole number from 1, got 0"),
        (b'{"schema_version": true}', "schema_version: expected a whole number from 1, got True"),
        (b'{"schema_version": "2"}', "schema_version: expected a whole number from 1, got '2'"),
    ],
)
def test_an_invalid_configuration_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(CheckpointError, match=rf"somewhere/config\.json: {words}"):
        checkpoint_files.unpack_config(data, PATH)


@pytest.mark.parametrize("config", [{}, {"model": 3}, {"model": {}}, {"model": {"action_conditioned": 1}}])
def test_version_1_without_a_model_is_refused_where_fields_are_checked(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="model"):
        _read(config)
