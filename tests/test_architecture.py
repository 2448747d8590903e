"""The house is one street: a stage imports only the stages that feed it, and each library lives in its own room."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STREET = ["configs", "robot_bridge", "data_collection", "ghvae_core", "planner"]
ROOMS = {  # library: where it may be imported
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
    "matplotlib": ["ghvae_core/"],
}
DOORS = {  # of a stage with rooms: a room imports only those before it
    "data_collection": ["formats", "archive", "play", "pages", "supervision", "export"],
    "ghvae_core": ["data", "models", "training", "evaluation", "serving"],
}
TORCH_FREE = [
    "ghvae_core/predictor.py",
    "ghvae_core/cost.py",
    "ghvae_core/serving/protocol.py",
    "ghvae_core/serving/client.py",
    *(
        f"ghvae_core/serving/{name}.py"
        for name in ("configuration", "crew", "front", "guard", "health", "keys", "line", "model_process", "shards")
    ),
    *(f"ghvae_core/serving/{name}.py" for name in ("process", "vitals", "waiting", "work", "worker")),
    "ghvae_core/run_server.py",
    "ghvae_core/run_keys.py",
]
REFUSED = {"dill", "cloudpickle", "marshal", "msgpack_numpy", "torchvision", "shelve"}
UNPICKLER = (
    "ghvae_core/evaluation/weights_download.py"  # reads the published metric weights, restricted, after a hash check
)
NOTHING_NAMES = {"utils", "helpers", "common", "misc", "tools", "types", "base"}


def _sources() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for stage in STREET for path in (ROOT / stage).rglob("*.py"))


def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def _imports(file: str) -> Iterator[str]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide the direction"
            yield node.module or ""


@pytest.mark.parametrize("file", _sources())
def test_imports_point_down_the_street(file: str) -> None:
    stage = STREET.index(file.split("/", maxsplit=1)[0])
    later = {name.split(".")[0] for name in _imports(file)} & set(STREET[stage + 1 :])
    assert not later, f"{file} imports {later}, which it feeds"


@pytest.mark.parametrize("file", [file for file in _sources() if file.split("/")[0] in DOORS])
def test_rooms_import_only_those_before_them(file: str) -> None:
    stage, folder = file.split("/")[:2]
    rooms = DOORS[stage]
    for name in _imports(file):
        room = (*name.split("."), "")[1] if name.startswith(f"{stage}.") else ""
        if folder in rooms and room in rooms:
            assert rooms.index(room) <= rooms.index(folder), f"{file} imports {name}"


@pytest.mark.parametrize("file", _sources())
def test_libraries_stay_in_their_rooms(file: str) -> None:
    for name in {name.split(".")[0] for name in _imports(file)}:
        assert name not in REFUSED, f"{file} imports {name}"
        assert name != "pickle" or file == UNPICKLER, f"{file} imports pickle"
        assert not (name == "torch" and file in TORCH_FREE), f"{file} must work without torch"
        rooms = ROOMS.get(name)
        assert rooms is None or any(file.startswith(room) for room in rooms), f"{file} imports {name}"


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
    assert Path(file).stem not in NOTHING_NAMES
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


def test_one_place_resizes_images() -> None:
    pattern = re.compile(r"cv2\.resize|\.resize\(\s*\(|INTER_")
    users = [file for file in _sources() if pattern.search((ROOT / file).read_text(encoding="utf-8"))]
    allowed = {"robot_bridge/camera.py", "data_collection/reports/images.py"}  # the second enlarges pictures for people
    assert set(users) <= allowed, users


def test_commands_live_in_files_of_their_names() -> None:
    commands = {str(path.relative_to(ROOT)) for stage in STREET for path in (ROOT / stage).rglob("run_*.py")}
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


def test_the_top_level_is_the_agreed_one() -> None:
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} == {*STREET, "tests"}
