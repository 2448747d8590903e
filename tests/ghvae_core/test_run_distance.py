"""Command `run_distance`: training from episodes to a saved network."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.loader import FOLDER
from ghvae_core import run_distance
from ghvae_core.models.temporal_distance import load
from tests.ghvae_core.episodes import record
from tests.messages import messages
from tests.patience import patience
from tests.terminal import on_terminal

COMMAND = [sys.executable, "-m", "ghvae_core.run_distance"]
SMALL = ["--set", "distance.channels=[8,8]", "--set", "distance.max_steps=4", "--set", "data.horizon=3"]
SMALL += ["--set", "training.batch_windows=2", "--set", "data.validation_fraction=0.4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index in range(4):
        record(folder, index)
    return folder


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], check=False, capture_output=True, text=True, timeout=patience(120))


Here = Callable[..., tuple[object, str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Here]:
    """Run the command in this process, without the time of a start; return its exit code and standard error."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["run_distance", *arguments])
        with pytest.raises(SystemExit) as stop:
            run_distance.main()
        return stop.value.code, capfd.readouterr().err

    yield run
    signal.signal(signal.SIGTERM, handler)


def test_the_network_and_its_metrics_are_saved(data: Path, tmp_path: Path) -> None:
    done = _run("--data", str(data), "--out", str(tmp_path / "out"), *SMALL, "--set", "training.n_steps=3")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["n_steps"] == 3 and {"mean_error_steps", "median_error_steps", "order_accuracy"} <= set(summary)
    assert "n_steps: 3" in (tmp_path / "out" / "config.yaml").read_text()
    distance = load(Path(summary["distance"]))
    assert distance.config.max_steps == 4 and distance.config.provenance["n_steps"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "distance.max_steps=9"], "distance.max_steps: expected fewer than the 5 frames"),
        (["--set", "training.n_step=3"], "did you mean 'n_steps'"),
        (["--checkpoint", "/nowhere"], "expected a folder with MANIFEST.json"),
    ],
)
def test_invalid_input_is_reported_in_one_line_and_nothing_is_written(
    data: Path, tmp_path: Path, here: Here, arguments: list[str], message: str
) -> None:
    code, errors = here("--data", str(data), "--out", str(tmp_path / "out"), *SMALL, *arguments)
    assert code == 2 and message in errors and len(messages(errors)) == 1, errors
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused(data: Path, tmp_path: Path, here: Here) -> None:
    (tmp_path / "note").write_text("existing")
    for out in (tmp_path, tmp_path / "note"):
        code, errors = here("--data", str(data), "--out", str(out), *SMALL)
        assert code == 2 and "expected a new or empty folder" in errors


def test_a_folder_with_only_decoded_episodes_is_used(data: Path, tmp_path: Path, here: Here) -> None:
    (tmp_path / "prepared").mkdir()
    code, errors = here("--data", str(data), "--out", str(tmp_path), *SMALL, "--set", "training.n_steps=1")
    assert code == 0, errors


def test_a_non_finite_loss_is_an_error(data: Path, tmp_path: Path, here: Here) -> None:
    settings = ["--set", "training.n_steps=9", "--set", "training.learning_rate=1e30"]
    code, errors = here("--data", str(data), "--out", str(tmp_path / "out"), *SMALL, *settings)
    assert code == 1 and "set training.learning_rate lower" in errors
    assert not (tmp_path / "out" / "distance").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_saves_the_network(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    words = [*COMMAND, "--data", str(data), "--out", str(tmp_path / "out"), *SMALL]
    output = tmp_path / "output"
    # A terminal shows the progress at once, a file after ten seconds.
    with on_terminal([*words, "--set", "training.n_steps=1000000"], output, FOLDER.parent, {}) as terminal:
        terminal.wait_for("loss", 120)
        terminal.process.send_signal(number)
        assert terminal.end() == 130, terminal.shown
    assert 0 < json.loads(output.read_text().splitlines()[-1])["n_steps"] < 1000000
    load(tmp_path / "out" / "distance")
