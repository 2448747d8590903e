"""What the families of action sequences do, in words for people."""

from __future__ import annotations

from collections.abc import Mapping

from data_collection.policies.primitives import CARRY_TO, PUSH_TO, USE_ON
from data_collection.policies.random_policy import CARRY, GRASP, NOISE, PLAY, PUSH

MEANINGS: Mapping[str, str] = {
    USE_ON: "grasp an object and move others with it",
    CARRY_TO: "carry an object to its place in the goal",
    PUSH_TO: "push an object to its place in the goal",
    NOISE: "move at random",
    GRASP: "grasp an object and lift it",
    PUSH: "push an object somewhere",
    CARRY: "carry an object somewhere",
    PLAY: "grasp an object and move others with it, somewhere",
}
FROM_GOAL = frozenset({USE_ON, CARRY_TO, PUSH_TO})  # drawn from the difference to the goal image; the others are random
