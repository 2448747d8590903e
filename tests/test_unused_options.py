"""Options that have no effect in combination with others are refused by name, before anything is loaded or written."""

from __future__ import annotations

import importlib
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.messages import messages

UNUSED = [  # command, start of the message
    ("planner.run_goal goal.png --start missing.png", "--start: no effect in simulation; omit it"),
    ("planner.run_goal goal.png --start a.png --patience-s 5", "--start, --patience-s: no effect in simulation"),
    ("planner.run_goal goal.png --robot franka_ros --task pick_wipe --seed 3", "--task, --seed: no effect with"),
    ("planner.run_task pick_wipe --predictor oracle --server ipc:///s", "--server: no effect with --predictor oracle"),
    ("planner.run_task pick_wipe --predictor copy --checkpoint x", "--checkpoint: no effect with --predictor copy"),
    ("planner.run_task pick_wipe --server ipc:///s --checkpoint x", "--checkpoint: no effect with --server"),
    ("planner.run_trials pick_wipe --predictor in_process --server ipc:///s", "--server: no effect with --predictor"),
    ("planner.run_trials pick_wipe --compare 'predictor=copy server=ipc:///s'", "server=: no effect with copy"),
    ("planner.run_doctor --server ipc:///s --checkpoint x", "--checkpoint: no effect with --server"),
    ("ghvae_core.run_finetune --describe --data x --resume", "--data, --resume: no effect with --describe"),
    ("ghvae_core.run_evaluation --data x --no-lpips --lpips-weights w", "--lpips-weights: no effect with --no-lpips"),
    ("ghvae_core.run_evaluation --data x --i3d-weights w", "--i3d-weights: no effect without --fvd"),
    ("ghvae_core.run_server --check --health 0 --device cpu --device cpu", "--health, a second --device: no effect"),
    ("data_collection.run_data show x 0 --out a.gif --frames 3", "--frames: no effect on an animation"),
    ("data_collection.run_data export x --out y --to webdataset --task z", "--task: no effect with --to webdataset"),
]


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    """Restore the handler that every command sets."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("command", "message"), UNUSED, ids=str)
def test_an_option_without_effect_is_refused_by_name(
    command: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    module, *words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [module, *words])
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(module).main()
    (line,) = messages(capsys.readouterr().err)
    assert stop.value.code == 2 and line.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())
