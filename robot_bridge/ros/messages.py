"""The ROS types of franka_ros_interface, made by genpy from this project's own definitions; no catkin, no workspace."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import genmsg
import genmsg.gentools
import genmsg.msg_loader
import genpy.dynamic
import genpy.message

from robot_bridge.robot import RobotError

DEFINITIONS: Final = Path(__file__).parent / "definitions"

Generation = Literal["0.7", "0.9"]  # of franka_ros: 0.7.0 to 0.8.2, or 0.9.0 to 0.10.1; they differ in `Errors`
RELEASES: Final[dict[Generation, str]] = {"0.7": "0.7.0 to 0.8.2", "0.9": "0.9.0 to 0.10.1"}
Types = dict[str, Any]  # message, service and action classes by name, such as "franka_msgs/SetLoad"

_BREAK = "\n" + "=" * 80 + "\n"  # between a definition and those that it uses, as ROS writes it
_BASIC = re.compile(r"(?:bool|byte|char|u?int\d+|float\d+|string|time|duration)\b")
_ACTION = {  # actionlib's expansion of an action, beside its goal, result and feedback
    "ActionGoal": "Header header\nactionlib_msgs/GoalID goal_id\n{0}Goal goal\n",
    "ActionResult": "Header header\nactionlib_msgs/GoalStatus status\n{0}Result result\n",
    "ActionFeedback": "Header header\nactionlib_msgs/GoalStatus status\n{0}Feedback feedback\n",
    "Action": "{0}ActionGoal action_goal\n{0}ActionResult action_result\n{0}ActionFeedback action_feedback\n",
}


class MessageError(RobotError):
    """A type is not what the driver's release says it is. Nothing was sent."""


@functools.cache
def load(generation: Generation = "0.7") -> Types:
    """Make all types of one generation of franka_ros, and check each against its published md5.

    Returns:
        The classes by name: messages, services ("franka_msgs/SetLoad") and actions ("franka_gripper/GraspAction").

    Raises:
        MessageError: A type has another md5 than the driver's.
    """
    services = _definitions(generation, "srv")
    texts = _definitions(generation, "msg")
    for name, text in _definitions(generation, "action").items():
        texts.update(_expand_action(name, text))
    for name, text in services.items():
        request, _, response = text.partition("---\n")
        texts |= {f"{name}Request": request, f"{name}Response": response}
    for text in list(texts.values()):
        texts = {**_foreign(text, texts), **texts}
    everything = "".join(f"{name} f{i}\n" for i, name in enumerate(texts))
    parts = [everything, *(f"MSG: {name}\n{text}" for name, text in texts.items())]
    types: Types = genpy.dynamic.generate_dynamic("robot_bridge/Everything", _BREAK.join(parts))
    del types["robot_bridge/Everything"]
    types |= {name: _service(name, services[name], types) for name in services}
    _check(types, expected(generation))
    return types


def expected(generation: Generation) -> dict[str, str]:
    """Return the published md5 of each type that a release of the driver has."""
    sums: dict[str, str] = {}
    for folder in _folders(generation):
        for line in (folder / "md5sums").read_text(encoding="ascii").splitlines():
            md5, name = line.split()
            sums[name] = md5
    return sums


def generation_of(md5: str) -> Generation | None:
    """Return which generation of franka_ros has a RobotState of this md5, or None."""
    return {expected(each)["franka_core_msgs/RobotState"]: each for each in RELEASES}.get(md5)


def _folders(generation: Generation) -> list[Path]:
    """Return where definitions are; those in a later folder replace those in an earlier one."""
    return [DEFINITIONS / "0.7"] + ([DEFINITIONS / "0.9"] if generation == "0.9" else [])


def _definitions(generation: Generation, kind: str) -> dict[str, str]:
    return {
        f"{path.parent.parent.name}/{path.stem}": path.read_text(encoding="ascii")
        for folder in _folders(generation)
        for path in sorted(folder.glob(f"*/{kind}/*.{kind}"))
    }


def _expand_action(name: str, text: str) -> Iterator[tuple[str, str]]:
    parts = re.split(r"^---\n", text, flags=re.MULTILINE)
    for suffix, part in zip(("Goal", "Result", "Feedback"), parts, strict=True):
        yield f"{name}{suffix}", part
    for suffix, template in _ACTION.items():
        yield f"{name}{suffix}", template.format(name)


def _foreign(text: str, known: dict[str, str]) -> dict[str, str]:
    """Return the definitions of the types that a text uses and that come with ROS itself."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name = line.split()[0].split("[")[0] if line.strip() else "bool"
        name = "std_msgs/Header" if name == "Header" else name
        if _BASIC.fullmatch(name) or name in known:
            continue
        first, *others = genpy.message.get_message_class(name)._full_text.split(_BREAK)
        found[name] = first
        for other in others:
            title, _, body = other.partition("\n")
            found[title.removeprefix("MSG: ")] = body
    return found


def _service(name: str, text: str, types: Types) -> type:
    spec = genmsg.msg_loader.load_srv_from_string(genmsg.MsgContext.create_default(), text, name)
    context = genmsg.MsgContext.create_default()
    for each, type_ in types.items():
        context.register(each, type_._spec)
    names = {"_type": name, "_md5sum": genmsg.gentools.compute_md5(context, spec)}
    classes = {"_request_class": types[f"{name}Request"], "_response_class": types[f"{name}Response"]}
    return type(name.split("/")[1], (), {**names, **classes})


def _check(types: Types, sums: dict[str, str]) -> None:
    wrong = [
        f"{name} has {types[name]._md5sum}, expected {md5}" for name, md5 in sums.items() if types[name]._md5sum != md5
    ]
    if wrong:
        raise MessageError(
            f"{DEFINITIONS}: the types differ from the driver's ({'; '.join(wrong)}); install the project anew"
        )
