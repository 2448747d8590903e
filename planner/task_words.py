"""The tasks in words for people: what is to be done, and when the simulation counts it as done."""

from __future__ import annotations

from typing import NamedTuple


class TaskWords(NamedTuple):
    """Words on one task, each a part of a sentence."""

    title: str
    sentence: str  # what is to be done
    in_place: str  # where every object must be
    place: str  # when an object is there, as `robot_bridge.simulation.success` measures it; empty: not known here

    @property
    def rule(self) -> str:
        """How the simulation decides, in sentences."""
        place = f"{self.in_place}: {self.place}" if self.place else self.in_place
        return (
            "The simulation knows where everything is. It counts a run as done when the robot has lifted the tool, has"
            f" touched an object with it, and after an action every object is {place}."
            " It is not done if the objects were there before the tool was lifted. The objects need not be where the"
            " goal image shows them, nor need the arm: the robot plans towards the goal image, but it does not decide."
        )

    @property
    def question(self) -> str:
        """What a person who judges a run is asked."""
        if not self.place:
            return "Does the scene look like the goal image, apart from the arm?"
        return (
            f"Is every object {self.in_place}, and was it brought there with the tool?"
            " It need not be exactly where the goal image shows it."
        )


_TASKS = {  # name of the task (paper E.1)
    "pick_wipe": TaskWords(
        "Pick & wipe",
        "Grasp the tool, and wipe the objects off the plate with it",
        "off the plate",
        "its centre lies beyond the rim, on any side",
    ),
    "pick_sweep": TaskWords(
        "Pick & sweep",
        "Grasp the tool, and sweep the objects into the dustpan with it",
        "in the dustpan",
        "its centre lies between the edges of the dustpan, and is not held above it",
    ),
}


def task_words(task: str) -> TaskWords:
    """Return the words on a task; one without words of its own is described by its goal image."""
    other = TaskWords(task, "Make the scene look like the goal image", "in place", "")
    return _TASKS.get(task, other)
