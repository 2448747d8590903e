"""Generated ROS types equal those of the driver's releases."""

from __future__ import annotations

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("genpy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

import genpy.dynamic

from robot_bridge.ros import messages
from robot_bridge.ros.messages import RELEASES, Generation, MessageError, expected, generation_of, load


@pytest.mark.parametrize(
    ("generation", "name"), [(generation, name) for generation in RELEASES for name in expected(generation)]
)
def test_types_have_the_md5_of_their_release(generation: Generation, name: str) -> None:
    assert load(generation)[name]._md5sum == expected(generation)[name]


@pytest.mark.parametrize(
    "line",
    [
        "import std_msgs.msg",
        "self.header = std_msgs.msg.Header()",
        "self.header = std_msgs.msg._Header.Header()",
        "class Errors(genpy.Message):",
        "super(Errors, self).__init__(*args, **kwds)",
        "self.joint_position_limits_violation = False",
    ],
)
def test_generated_lines_are_those_of_genpy(line: str) -> None:
    types = ["std_msgs/Header", "franka_msgs/Errors"]
    plain = genpy.dynamic._gen_dyn_modify_references(line, types[1], types)
    with messages._fast_generation():
        assert genpy.dynamic._gen_dyn_modify_references(line, types[1], types) == plain


def test_list_of_types_is_complete() -> None:
    assert len(expected("0.7")) == 37
    assert {name.rsplit("/", maxsplit=1)[0] for name in expected("0.7")} == {
        "control_msgs", "controller_manager_msgs", "franka_core_msgs", "franka_gripper", "franka_msgs",
    }  # fmt: skip


def test_generation_is_detected_by_md5() -> None:
    for generation in RELEASES:
        assert generation_of(load(generation)["franka_core_msgs/RobotState"]._md5sum) == generation
    assert generation_of("0" * 32) is None


def test_message_survives_serialization() -> None:
    types = load("0.7")
    state: Any = types["franka_core_msgs/RobotState"]()
    state.q_d, state.robot_mode, state.header.frame_id = [0.1 * i for i in range(7)], 4, "panda_link0"
    state.current_errors.cartesian_reflex = True
    wire = BytesIO()
    state.serialize(wire)
    received: Any = types["franka_core_msgs/RobotState"]().deserialize(wire.getvalue())
    assert list(received.q_d) == list(state.q_d)
    assert (received.robot_mode, received.current_errors.cartesian_reflex) == (4, True)
    assert received.current_errors.joint_reflex is False


def test_newer_release_has_five_more_errors() -> None:
    slots = [load(generation)["franka_msgs/Errors"].__slots__ for generation in RELEASES]
    assert [len(each) for each in slots] == [36, 41]


def test_changed_definition_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(messages.DEFINITIONS, tmp_path / "definitions")
    path = tmp_path / "definitions/0.7/franka_gripper/msg/GraspEpsilon.msg"
    path.write_text(path.read_text().replace("inner", "inside"))
    monkeypatch.setattr(messages, "DEFINITIONS", tmp_path / "definitions")
    with pytest.raises(
        MessageError, match=r"franka_gripper/GraspEpsilon has .*, expected 95b2c5464a6f679bd1dacaf86414f095"
    ):
        load.__wrapped__("0.7")
