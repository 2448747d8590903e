"""Configuration: accepted values, and refusals with the source and the nearest key."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import yaml
from pydantic import Field, model_validator

from configs.loader import FOLDER, Config, ConfigError, load, migrate, to_yaml


class Arm(Config):
    step_limit_m: float = Field(gt=0)
    corner_m: tuple[float, float] = (0.0, 1.0)


class Whole(Config):
    robot: Arm


def _write(folder: Path, text: str) -> Path:
    file = folder / "robot.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_exponents_are_numbers_and_lists_become_tuples(tmp_path: Path) -> None:
    config = load(Whole, {"robot": _write(tmp_path, "step_limit_m: 1e-4\ncorner_m: [1, 2.5]\n")})
    assert config.robot.step_limit_m == 1e-4
    assert config.robot.corner_m == (1.0, 2.5)


@pytest.mark.parametrize(("text", "expected"), [("off", "off"), ("yes", "yes"), ("true", True), ("False", False)])
def test_only_true_and_false_are_booleans(tmp_path: Path, text: str, expected: str | bool) -> None:
    class Switch(Config):
        value: str | bool

    class Board(Config):
        switch: Switch

    file = _write(tmp_path, f"value: {text}\n")
    assert load(Board, {"switch": file}).switch.value == expected
    assert load(Board, {"switch": file}, [f"switch.value={text}"]).switch.value == expected


def test_a_refused_value_is_reported_once(tmp_path: Path) -> None:
    class Grid(Config):
        rows: int = Field(gt=0)
        columns: int = Field(default_factory=lambda fields: fields["rows"])

        @model_validator(mode="after")
        def _check(self) -> "Grid":
            if self.rows > 9:
                raise ValueError(f"expected at most 9 rows, got {self.rows}")
            return self

    class Sheet(Config):
        grid: Grid

    for rows, reason in ((0, "grid.rows: Input should be greater than 0, got 0"), (12, "at most 9 rows, got 12")):
        with pytest.raises(ConfigError, match=f"{reason}$"):
            load(Sheet, {"grid": _write(tmp_path, f"rows: {rows}\n")})


def test_the_message_of_a_validator_is_reported(tmp_path: Path) -> None:
    class Arms(Config):
        left: float
        right: float

        @model_validator(mode="after")
        def _check(self) -> "Arms":
            if self.left == self.right:
                raise ValueError("expected two lengths that differ")
            return self

    class Body(Config):
        arms: Arms

    with pytest.raises(ConfigError, match=r"robot\.yaml:1: arms: expected two lengths that differ, got"):
        load(Body, {"arms": _write(tmp_path, "{left: 1, right: 1}\n")})
    with pytest.raises(ConfigError, match=r"^--set arms\.left=2: arms: expected two lengths that differ, got"):
        load(Body, {"arms": _write(tmp_path, "{left: 1, right: 2}\n")}, ["arms.left=2"])


def test_later_overrides_replace_earlier_ones(tmp_path: Path) -> None:
    file = _write(tmp_path, "step_limit_m: 0.2\n")
    config = load(Whole, {"robot": file}, ["robot.step_limit_m=0.1", "robot.step_limit_m=5e-2"])
    assert config.robot.step_limit_m == 0.05


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("step_limit: 0.2\n", [], ["robot.yaml:1", "'robot.step_limit'", "did you mean 'step_limit_m'?"]),
        ("step_limit_m: 0.2\nstep_limit_m: 0.3\n", [], ["robot.yaml:2", "is set twice"]),
        ("step_limit_m: far\n", [], ["robot.yaml:1", "robot.step_limit_m", "got far"]),
        ("step_limit_m: -1\n", [], ["robot.yaml:1", "greater than 0", "got -1"]),
        ("step_limit_m: .nan\n", [], ["robot.yaml:1", "finite"]),
        ("corner_m: [1, 2]\n", [], ["'robot.step_limit_m' is missing"]),
        ("- 1\n", [], ["expected a mapping"]),
        ("a: [\n", [], ["readable YAML"]),
        ("step_limit_m: 0.2\n", ["robot.step_limitm=1"], ["--set robot.step_limitm=1", "did you mean 'step_limit_m'?"]),
        ("step_limit_m: 0.2\n", ["robto.step_limit_m=1"], ["unknown section", "did you mean 'robot'?"]),
        ("step_limit_m: 0.2\n", ["step_limit_m"], ["expected section.key=value"]),
        ("step_limit_m: 0.2\n", ["robot.step_limit_m.x=1"], ["is a value and has no keys"]),
        ("step_limit_m: 0.2\n", ["robot.step_limit_m=[1"], ["not valid YAML"]),
        ("step_limit_m: 0.2\n", ["robot.step_limit_m=2024-13-01"], ["not valid YAML"]),
        ("step_limit_m: 2024-13-01\n", [], ["robot.yaml:1", "month"]),
    ],
)
def test_mistakes_are_refused_with_source(tmp_path: Path, text: str, overrides: list[str], expected: list[str]) -> None:
    file = _write(tmp_path, text)
    with pytest.raises(ConfigError) as refusal:
        load(Whole, {"robot": file}, overrides)
    message = str(refusal.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


def test_the_refusal_of_a_missing_file_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean .robots/simulation\.yaml"):
        load(Whole, {"robot": "robots/simulatoin.yaml"})


def test_a_written_configuration_reads_back(tmp_path: Path) -> None:
    config = Whole(robot=Arm(step_limit_m=0.2, corner_m=(0.0, 3.0)))
    saved = yaml.safe_load(to_yaml(config))
    assert load(Whole, {"robot": _write(tmp_path, yaml.safe_dump(saved["robot"]))}) == config


def test_a_config_is_immutable() -> None:
    arm = Arm(step_limit_m=0.2)
    with pytest.raises(ValueError, match="frozen"):
        arm.step_limit_m = 0.3  # type: ignore[misc]


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_shipped_files_have_comments_on_the_origin_of_values(file: Path) -> None:
    assert "#" in file.read_text(encoding="utf-8"), "each default needs its origin in a comment"


class Gripper(Config):
    renamed_keys: ClassVar[Mapping[str, str]] = {"force": "force_n"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"split": {"unseen": "test"}}

    force_n: float = 20.0
    split: Literal["train", "test"] = "train"


class Hand(Config):
    gripper: Gripper
    others: tuple[Gripper, ...] = ()
    named: dict[str, Gripper] = {}  # noqa: RUF012 - pydantic copies it


def test_a_former_key_or_value_is_refused_with_the_present_one(tmp_path: Path) -> None:
    file = tmp_path / "gripper.yaml"
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"--set gripper\.force=3: 'gripper\.force' is now 'gripper\.force_n'"):
        load(Hand, {"gripper": file}, ["gripper.force=3"])
    with pytest.raises(ConfigError, match=r"gripper\.split: 'unseen' is now 'test'"):
        load(Hand, {"gripper": file}, ["gripper.split=unseen"])


def test_a_stored_configuration_of_an_earlier_version_is_migrated() -> None:
    stored = {
        "gripper": {"force": 3.0, "split": "unseen"},
        "others": [{"force": 4.0}],
        "named": {"x": {"force": 1.0}},
        "unknown": 1,
    }
    migrated = migrate(Hand, stored)
    assert migrated == {
        "gripper": {"force_n": 3.0, "split": "test"},
        "others": [{"force_n": 4.0}],
        "named": {"x": {"force_n": 1.0}},
        "unknown": 1,
    }
    assert migrate(Hand, migrated) == migrated
