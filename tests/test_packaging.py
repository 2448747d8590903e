"""The wheel works outside the checkout: its files, and commands with and without extras."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ghvae_core.run_server import SHIPPED
from ghvae_core.serving.launch import private_server
from tests.data_collection.folders import make_collection

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["configs", "robot_bridge", "data_collection", "ghvae_core", "planner"]
COMMANDS = sorted(path.stem for package in PACKAGES for path in (ROOT / package).glob("run_*.py"))
PLANNER = """
import sys
import numpy as np
from ghvae_core.predictor import Context, GoalCost
from ghvae_core.serving.client import ServerClient

client = ServerClient(sys.argv[1], GoalCost())
frames = np.zeros((client.spec.n_context, 64, 64, 3), np.uint8)
context = Context(frames, np.zeros((client.spec.n_context - 1, 4), np.float32))
reply = client.predict(context, np.zeros((3, 2, 4), np.float32), frames[0], 1)
print(reply.costs.shape, reply.videos.shape)
"""


class Environment:
    """A virtual environment with the wheel, and without the checkout on its path."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self._bin = folder / "bin"
        self.python = self._bin / "python"
        self.site = next((folder / "lib").glob("python*/site-packages"))
        self._work = folder.parent / "elsewhere"
        self._work.mkdir(exist_ok=True)

    def run(self, command: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in an unrelated folder, and check its exit code."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environ |= {"PATH": f"{self._bin}{os.pathsep}{environ['PATH']}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(self._bin / command), *arguments],
            cwd=self._work,
            env=environ,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert done.returncode == code, f"{command} {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def refuses(self, extra: str, command: str, *arguments: str) -> None:
        """Check that a command exits with 2 and one line that names the missing extra."""
        error = self.run(command, *arguments, code=2).stderr.strip()
        assert f"ghvae-foresight[{extra}]" in error and len(error.splitlines()) == 1, error


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"], check=True)


def _required(distribution: metadata.Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    for line in distribution.requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _closure(distribution: metadata.Distribution, extras: Iterable[str]) -> set[str]:
    """Return the names of the distributions that a distribution needs, directly and indirectly."""
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = list(_required(distribution, extras))
    while queue:
        requirement = queue.pop()
        key = (requirement.name, frozenset(requirement.extras))
        if key not in seen:
            seen.add(key)
            queue += _required(metadata.distribution(requirement.name), requirement.extras)
    return {name for name, _ in seen}


def _link(site: Path, names: Iterable[str]) -> None:
    """Make installed distributions visible in an environment, by links to their top-level files."""
    for name in names:
        distribution = metadata.distribution(name)
        for entry in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = Path(str(distribution.locate_file(entry)))
            if target.exists() and not (site / entry).exists():
                (site / entry).symlink_to(target)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("ghvae_foresight.py", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
    (path,) = out.glob("ghvae_foresight-*.whl")
    return path


def _environment(folder: Path, wheel: Path, extras: Sequence[str]) -> Environment:
    environment = Environment(folder / "venv")
    _pip("--python", str(environment.python), "install", "--no-deps", str(wheel))
    (info,) = environment.site.glob("ghvae_foresight-*.dist-info")
    _link(environment.site, _closure(metadata.Distribution.at(info), extras))
    return environment


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """An environment as after `pip install ghvae_foresight-*.whl`: only the requirements without extras."""
    return _environment(tmp_path_factory.mktemp("plain"), wheel, [])


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    """An environment as after `pip install ghvae_foresight-*.whl[all]`."""
    return _environment(tmp_path_factory.mktemp("complete"), wheel, ["all"])


def test_the_wheel_holds_every_data_file_of_the_packages(plain: Environment) -> None:
    ignored = {".py", ".pyc"}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in ignored and path.parent != ROOT / "ghvae_core" / "checkpoints"
    }
    assert {f"{package}/py.typed" for package in PACKAGES} <= expected
    missing = {file for file in expected if not (plain.site / file).exists()}
    assert not missing


def test_without_extras_there_is_no_torch_mujoco_or_pyarrow(plain: Environment) -> None:
    find = "import importlib.util as u; print([n for n in ('torch', 'mujoco', 'pyarrow', 'mypy') if u.find_spec(n)])"
    assert plain.run("python", "-c", find).stdout.strip() == "[]"
    assert str(ROOT) not in plain.run("python", "-c", "import configs; print(configs.__file__)").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_extra(plain: Environment, command: str) -> None:
    assert "Usage" in plain.run(command, "--help").stdout


def test_run_data_needs_no_extra_but_for_lerobot(plain: Environment, tmp_path: Path) -> None:
    episodes = make_collection(tmp_path / "episodes", 2)
    plain.run("run_data", "reindex", str(episodes))
    assert "2 of 2" in plain.run("run_data", "list", str(episodes)).stdout
    plain.run("run_data", "page", str(episodes))
    plain.run("run_data", "verify", str(episodes))
    plain.run("run_data", "export", str(episodes), "--to", "webdataset", "--out", str(tmp_path / "shards"))
    plain.refuses("lerobot", "run_data", "export", str(episodes), "--to", "lerobot", "--out", str(tmp_path / "lerobot"))


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("simulation", "run_task pick_wipe"),
        ("simulation", "run_goal goal.png --robot simulation"),
        ("simulation", "run_collection --episodes 1 --out episodes"),
        ("model", "run_server"),
        ("model", "run_server --check"),
        ("model", "run_finetune --data episodes --out run"),
        ("model", "run_evaluation --data episodes --out run"),
        ("model", "run_distance --data episodes --out run"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(plain: Environment, extra: str, command: str) -> None:
    plain.refuses(extra, *command.split())


def test_a_robot_machine_without_extras_plans_on_a_server(plain: Environment, tmp_path: Path) -> None:
    with private_server(SHIPPED, threads=1) as server:
        assert plain.run("python", "-c", PLANNER, server.address).stdout.split() == [
            "(3,)",
            "(1,",
            "2,",
            "64,",
            "64,",
            "3)",
        ]
        options = ["--json", "--robot", "franka_ros", "--server", server.address]
        checks = json.loads(plain.run("run_doctor", *options, code=1).stdout)["checks"]
    assert {check["name"]: check["passed"] for check in checks} == {"ros": False, "disk": True, "server": True}


def test_without_extras_run_doctor_reports_what_a_private_server_needs(plain: Environment) -> None:
    checks = json.loads(plain.run("run_doctor", "--json", "--robot", "simulation", code=1).stdout)["checks"]
    fixes = {check["name"]: check["fix"] for check in checks}
    assert "ghvae-foresight[simulation]" in fixes["renderer"] and "ghvae-foresight[model]" in fixes["checkpoint"]


def test_with_all_extras_everything_runs_outside_the_checkout(complete: Environment, tmp_path: Path) -> None:
    _use_everything(complete, tmp_path)


def test_python_3_11_is_the_floor_everywhere() -> None:
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("setup.py", "pyproject.toml", "bootstrap.sh")}
    assert 'python_requires=">=3.11"' in texts["setup.py"]
    assert (
        'target-version = "py311"' in texts["pyproject.toml"] and 'python_version = "3.11"' in texts["pyproject.toml"]
    )
    assert "3, 11" in texts["bootstrap.sh"] and "3, 10" not in texts["bootstrap.sh"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_installation_with_all_extras_runs(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    _pip("--python", str(environment.python), "install", "-c", str(ROOT / "constraints.txt"), f"{wheel}[all]")
    _use_everything(environment, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_installation_without_extras_runs(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    _pip("--python", str(environment.python), "install", "-c", str(ROOT / "constraints.txt"), str(wheel))
    test_a_robot_machine_without_extras_plans_on_a_server(environment, tmp_path)
    test_run_data_needs_no_extra_but_for_lerobot(environment, tmp_path)


def _use_everything(environment: Environment, folder: Path) -> None:
    """Collect, export and plan; each uses configurations, templates or the checkpoint of the wheel."""
    episodes, report = folder / "episodes", folder / "report"
    environment.run("run_collection", "--episodes", "1", "--out", str(episodes), "--set", "collection.n_steps=2")
    environment.run("run_data", "status", str(episodes))
    environment.run("run_data", "export", str(episodes), "--to", "lerobot", "--out", str(folder / "lerobot"))
    small = ["--steps", "1", "--set", "planner.n_candidates=4", "--set", "planner.replan_every=2"]
    environment.run("run_task", "pick_wipe", "--goal", "demo:pick_wipe", "--out", str(report), *small)
    assert (report / "report.html").stat().st_size > 10_000
    assert (folder / "lerobot" / "meta" / "info.json").exists()
