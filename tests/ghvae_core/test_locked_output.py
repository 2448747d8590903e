"""Two training commands with one output folder, each in its own process: only the first one trains."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_collection.folder_lock import LOCK
from tests.ghvae_core.episodes import record
from tests.ghvae_core.small import MODEL
from tests.patience import patience

LONG = {
    "run_finetune": (
        *("training.module_steps=[100000]", "training.prior_finetune_steps=0", "training.rollout_steps=0"),
        *("training.batch_windows=2", "training.validation_windows=2", "data.horizon=2"),
        "data.validation_fraction=0.3",
    ),
    "run_distance": (
        *("training.n_steps=100000", "training.batch_windows=2", "distance.channels=[8,8]", "distance.max_steps=4"),
        *("data.horizon=3", "data.validation_fraction=0.4"),
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(4):
        record(folder / "episodes", index)
    (folder / "small.yaml").write_text(MODEL)
    return folder


def _command(name: str, data: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", f"ghvae_core.{name}", "--data", str(data / "episodes"), "--out", str(out)]
    command += ["--device", "cpu"]
    command += ["--model", str(data / "small.yaml")] if name == "run_finetune" else []
    return [*command, *(word for setting in LONG[name] for word in ("--set", setting))]


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_a_second_run_on_the_folder_of_a_running_one_is_refused(name: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command, begun = _command(name, data, out), out / ("state" if name == "run_finetune" else "prepared")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        end_s = time.monotonic() + patience(60)
        while not (begun.exists() and any(begun.iterdir())):
            assert first.poll() is None and time.monotonic() < end_s
            time.sleep(0.1)
        assert (out / LOCK).is_file()
        second = [*command, "--resume"] if name == "run_finetune" else command
        done = subprocess.run(second, check=False, capture_output=True, text=True, timeout=patience(60))
        assert done.returncode == 2, done.stderr
        assert f"error: {out}: locked by another run; wait for its end" in done.stderr.splitlines()[-1]
        assert done.stdout == ""
        first.send_signal(signal.SIGINT)
        assert first.wait(patience(60)) == 130
