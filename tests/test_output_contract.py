"""Every command on a pseudo-terminal: the last line of standard output is one JSON object; exit codes as documented."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from data_collection.collection.progress import CollectionProgress
from data_collection.collection.status import StatusFile
from data_collection.run_data import WORDS
from ghvae_core.run_keys import SUBCOMMANDS
from tests.ghvae_core.episodes import record
from tests.ghvae_core.small import MODEL
from tests.terminal import Terminal, on_terminal

ROOT = Path(__file__).resolve().parents[1]
SMALL_ARM = "--set robot.renderer=ray"
COLLECTION = f"{SMALL_ARM} --set collection.n_steps=2 --set collection.steps_per_draw=[1,2]"
PLAN = f"{SMALL_ARM} --set planner.n_candidates=4"
WINDOWS = "--set data.horizon=2 --set data.validation_fraction=0.3 --set training.batch_windows=2 --device cpu"
NETWORK = "--set distance.channels=[8,8] --set distance.max_steps=3"
NO_REFINEMENT = "--set training.prior_finetune_steps=0 --set training.rollout_steps=0"
FINETUNE = f"--data episodes --out run --model small.yaml --modules 1 {NO_REFINEMENT} {WINDOWS}"
QUICK = [
    f"run_collection --episodes 1 --out new {COLLECTION}",
    "run_data status episodes --json",
    "run_data list episodes --json",
    "run_data show episodes 1 --json",
    "run_data page episodes --shown 1 --json",
    "run_data verify episodes",
    "run_data quarantine episodes 1 --json",
    "run_data reindex episodes",
    "run_data export episodes --to webdataset --out shards",
    "run_keys new keys --name server --json",
    "run_keys allow server lab7/lab7.key --json",
    "run_keys revoke server lab8 --json",
    "run_keys list server --json",
    f"run_goal goal.png {SMALL_ARM}",
    f"run_task pick_wipe --predictor copy --steps 1 {PLAN}",
    f"run_doctor --json --out . {SMALL_ARM}",
]
SLOW = [
    "run_finetune --describe --model small.yaml",
    f"run_finetune {FINETUNE} --set training.module_steps=[2] --set training.validation_windows=2 "
    "--set training.checks=warn",
    f"run_distance --data episodes --out run {NETWORK} {WINDOWS} --set training.n_steps=2",
    "run_evaluation --data episodes --windows 2 --no-lpips --out run --set evaluation.validation_fraction=1",
    "run_server --check --threads 1 --device cpu --set predictor.chunk=3",
    f"run_task pick_wipe --predictor server --steps 1 {PLAN}",
    f"run_task pick_wipe --predictor in_process --steps 1 {PLAN}",
    f"run_trials pick_wipe --predictor copy --seeds 0:2 --out trials --set task.n_steps=1 {PLAN}",
]
INTERRUPTED = [  # command, what it shows when it is at work
    pytest.param(f"run_collection --episodes 1000 --out new {COLLECTION}", "2/1000"),
    pytest.param(f"run_task pick_wipe --predictor copy --steps 1000 {PLAN}", "2/1000", marks=pytest.mark.slow),
    pytest.param(
        f"run_trials pick_wipe --predictor copy --seeds 0:900 --out trials --workers 2 --set task.n_steps=1 {PLAN}",
        "1/900",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        f"run_finetune {FINETUNE} --set training.module_steps=[100000]", "module_1  mse", marks=pytest.mark.slow
    ),
    pytest.param(
        f"run_distance --data episodes --out run {NETWORK} {WINDOWS} --set training.n_steps=100000",
        "loss",
        marks=pytest.mark.slow,
    ),
    pytest.param("run_server --address tcp://127.0.0.1:0 --device cpu", "INFO", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with episodes, keys and a small model; tests work on copies."""
    place = tmp_path_factory.mktemp("work")
    for index in range(4):
        record(place / "episodes", index, n_frames=13)
    StatusFile(place / "episodes", CollectionProgress(0, 0.0, 4, None)).beat("done")
    (place / "small.yaml").write_text(MODEL, encoding="utf-8")
    for name in ("server", "lab7", "lab8"):
        with _started(f"run_keys new {name} --name {name}", place, place / "out.txt") as command:
            assert command.end() == 0, command.shown
    with _started("run_keys allow server lab8/lab8.key", place, place / "out.txt") as command:
        assert command.end() == 0, command.shown
    return place


@pytest.fixture
def work(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "work"))


def _started(command: str, folder: Path, out: Path | None) -> AbstractContextManager[Terminal]:
    """Start a command on a terminal, its standard output in a file or on the terminal."""
    name, *arguments = shlex.split(command)
    (module,) = (path for path in ROOT.glob("*/run_*.py") if path.stem == name)
    words = [sys.executable, "-m", f"{module.parent.name}.{name}", *arguments]
    return on_terminal(words, out, folder, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def _last_object(text: str) -> dict[str, Any]:
    """Return the JSON object on the last line."""
    value = json.loads(text.splitlines()[-1], parse_constant=pytest.fail)
    assert isinstance(value, dict) and value
    return value


def test_every_command_and_subcommand_is_run() -> None:
    run = {tuple(shlex.split(command)[:2]) for command in [*QUICK, *SLOW]}
    assert {name for name, _ in run} == {path.stem for path in ROOT.glob("*/run_*.py")}
    assert {word for name, word in run if name == "run_data"} == {*WORDS}
    assert {word for name, word in run if name == "run_keys"} == {*SUBCOMMANDS}


@pytest.mark.parametrize("command", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_the_last_line_in_a_file_is_a_json_object(command: str, work: Path) -> None:
    out = work / "out.txt"
    with _started(command, work, out) as terminal:
        assert terminal.end(120) == 0, terminal.shown
    assert _last_object(out.read_text(encoding="utf-8"))
    assert "{" not in terminal.shown  # the object is in the file alone


@pytest.mark.slow
@pytest.mark.parametrize("command", [*QUICK, *SLOW])
def test_the_last_line_on_a_terminal_is_a_json_object(command: str, work: Path) -> None:
    with _started(command, work, None) as terminal:
        assert terminal.end(120) == 0, terminal.shown
    assert _last_object(terminal.shown)


@pytest.mark.parametrize(("command", "shown"), INTERRUPTED)
def test_ctrl_c_on_the_terminal_exits_with_130_and_no_traceback(command: str, shown: str, work: Path) -> None:
    """The terminal sends SIGINT to the command and to all its processes."""
    with _started(command, work, work / "out.txt") as terminal:
        terminal.wait_for(shown, 120)
        terminal.type("\x03")
        assert terminal.end(120) == 130, terminal.shown
    assert "Traceback" not in terminal.shown
    assert "stopped" in terminal.shown


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_sigterm_ends_other_commands_with_130(number: signal.Signals, code: int, work: Path) -> None:
    with _started(f"run_collection --episodes 1000 --out new {COLLECTION}", work, work / "out.txt") as terminal:
        terminal.wait_for("2/1000")
        terminal.process.send_signal(number)
        assert terminal.end() == code, terminal.shown


@pytest.mark.parametrize(
    "command",
    [
        "run_data list locked",
        "run_goal locked/goal.png",
        "run_data export episodes --to webdataset --out small.yaml/shards",
        f"run_collection --episodes 1 --out small.yaml/new {COLLECTION}",
        "run_data page episodes --out nowhere/page.html",
        "run_keys list nowhere",
    ],
)
def test_a_path_that_cannot_be_used_exits_with_2(command: str, work: Path) -> None:
    out = work / "out.txt"
    (work / "locked").write_text("a file", encoding="utf-8")
    with _started(command, work, out) as terminal:
        assert terminal.end() == 2, terminal.shown
    assert out.read_text(encoding="utf-8") == "" and "error: " in terminal.shown and "Traceback" not in terminal.shown
