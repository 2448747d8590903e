"""The dependency rules: a package imports only packages before it, and each library is imported in one place."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["configs", "robot_bridge", "data_collection", "ghvae_core", "planner"]
LIBRARIES = {  # library: where it may be imported
    "torch": ["ghvae_core/"],
    "safetensors": ["ghvae_core/"],
    "mujoco": ["robot_bridge/simulation/"],
    "rospy": ["robot_bridge/ros/"],
    "genpy": ["robot_bridge/ros/"],
    "actionlib": ["robot_bridge/ros/"],
    "franky": ["robot_bridge/libfranka/"],
    "franky_sim": ["robot_bridge/libfranka/"],
    "h5py": ["data_collection/formats/"],
    "av": ["data_collection/formats/", "data_collection/export/"],
    "pyarrow": ["data_collection/export/"],
    "zmq": ["ghvae_core/serving/"],
    "matplotlib": ["data_collection/reports/", "ghvae_core/"],
}
SUBPACKAGES = {  # a subpackage imports only those before it
    "robot_bridge": ["franka", "simulation", "ros", "libfranka"],
    "data_collection": ["formats", "storage", "policies", "reports", "collection", "export"],
    "ghvae_core": ["data", "models", "training", "evaluation", "serving"],
}
TORCH_FREE = [
    "ghvae_core/predictor.py",
    "ghvae_core/goal_cost.py",
    "ghvae_core/run_server.py",
    "ghvae_core/run_keys.py",
    *(
        f"ghvae_core/serving/{name}.py"
        for name in (
            *("auth", "client", "config", "launch", "metrics", "protocol", "server", "sockets"),
            *("wire", "worker", "worker_main", "worker_pool"),
        )
    ),
]
LAZY_TORCH = {"ghvae_core/goal_cost.py"}  # its networks need torch, its weights and the pixel term do not
REFUSED = {"dill", "cloudpickle", "marshal", "msgpack_numpy", "torchvision", "shelve"}
UNPICKLER = (
    "ghvae_core/evaluation/weights_download.py"  # reads the published metric weights, restricted, after a hash check
)
REFUSED_FILE_NAMES = {"utils", "helpers", "common", "misc", "tools", "types", "base"}


def _sources() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def _top_level_imports(file: str) -> Iterator[str]:
    """Yield the imports executed when the file is imported: not those inside functions or for annotations only."""
    for node in _tree(file).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def _imports(file: str) -> Iterator[str]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide the direction"
            yield node.module or ""


@pytest.mark.parametrize("file", _sources())
def test_a_package_imports_only_packages_before_it(file: str) -> None:
    package = PACKAGES.index(file.split("/", maxsplit=1)[0])
    later = {name.split(".")[0] for name in _imports(file)} & set(PACKAGES[package + 1 :])
    assert not later, f"{file} imports {later}, a later package"


@pytest.mark.parametrize("file", [file for file in _sources() if file.split("/")[0] in SUBPACKAGES])
def test_a_subpackage_imports_only_those_before_it(file: str) -> None:
    package, folder = file.split("/")[:2]
    allowed = SUBPACKAGES[package]
    for name in _imports(file):
        subpackage = (*name.split("."), "")[1] if name.startswith(f"{package}.") else ""
        if folder in allowed and subpackage in allowed:
            assert allowed.index(subpackage) <= allowed.index(folder), f"{file} imports {name}"


@pytest.mark.parametrize("file", _sources())
def test_a_library_is_imported_only_where_allowed(file: str) -> None:
    for name in {name.split(".")[0] for name in _imports(file)}:
        assert name not in REFUSED, f"{file} imports {name}"
        assert name != "pickle" or file == UNPICKLER, f"{file} imports pickle"
        needs_no_torch = file in TORCH_FREE and file not in LAZY_TORCH
        assert not (name == "torch" and needs_no_torch), f"{file} must work without torch"
        allowed = LIBRARIES.get(name)
        assert allowed is None or any(file.startswith(subpackage) for subpackage in allowed), f"{file} imports {name}"


def test_torch_free_modules_are_imported_without_torch() -> None:
    assert not any(name.split(".")[0] == "torch" for file in LAZY_TORCH for name in _top_level_imports(file))
    modules = ", ".join(file[:-3].replace("/", ".") for file in TORCH_FREE)
    command = [sys.executable, "-c", f"import sys; sys.modules['torch'] = None; import {modules}"]
    subprocess.run(command, cwd=ROOT, check=True)


def test_no_import_cycles() -> None:
    modules = {file[:-3].replace("/", ".").removesuffix(".__init__"): file for file in _sources()}
    graph = {module: {name for name in _imports(file) if name in modules} for module, file in modules.items()}
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"cycle among {sorted(graph)}"


@pytest.mark.parametrize("file", [file for file in _sources() if file.endswith("__init__.py")])
def test_init_files_hold_a_docstring_only(file: str) -> None:
    (statement,) = _tree(file).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


@pytest.mark.parametrize("file", _sources())
def test_files_and_functions_are_small(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert Path(file).stem not in REFUSED_FILE_NAMES
    assert text.count("\n") <= 350, f"{file} is longer than 350 lines"
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 50, f"{file}:{node.lineno} {node.name} has {length} lines"


def test_one_broad_except() -> None:
    broad = [
        f"{file}:{node.lineno}"
        for file in _sources()
        for node in ast.walk(_tree(file))
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or {"Exception", "BaseException"} & {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
        )
    ]
    assert len(broad) <= 1 and all(place.startswith("ghvae_core/serving/") for place in broad), broad


def test_images_are_resized_in_one_place() -> None:
    pattern = re.compile(r"cv2\.resize|\.resize\(\s*\(|INTER_")
    users = [file for file in _sources() if pattern.search((ROOT / file).read_text(encoding="utf-8"))]
    allowed = {"robot_bridge/camera.py", "data_collection/reports/images.py"}  # the second enlarges images for reports
    assert set(users) <= allowed, users


def test_commands_are_in_files_of_their_names() -> None:
    commands = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("run_*.py")}
    assert commands == {
        "data_collection/run_collection.py",
        "data_collection/run_data.py",
        "ghvae_core/run_finetune.py",
        "ghvae_core/run_distance.py",
        "ghvae_core/run_evaluation.py",
        "ghvae_core/run_keys.py",
        "ghvae_core/run_server.py",
        "planner/run_doctor.py",
        "planner/run_goal.py",
        "planner/run_task.py",
        "planner/run_trials.py",
    }


def test_the_top_level_has_only_the_listed_entries() -> None:
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == {*PACKAGES, "tests"}
