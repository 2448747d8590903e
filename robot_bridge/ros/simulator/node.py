"""The simulated driver: a MuJoCo Franka with the topics, services and actions of franka_ros_interface."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal, NoReturn

import cv2
import numpy as np
import rospy
import typer
from std_msgs.msg import Float64

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import ReportedError, refuse_unused, run
from configs.loader import Config, load
from robot_bridge.franka.config import RosImageConfig
from robot_bridge.ros import names
from robot_bridge.ros.driver import Master, MasterError
from robot_bridge.ros.messages import Generation
from robot_bridge.ros.messages import load as load_types
from robot_bridge.ros.simulator.arm import TICK_S, SimulatedArm
from robot_bridge.ros.simulator.camera import CameraSettings, RosSimulatedCamera
from robot_bridge.ros.simulator.faults import Faults
from robot_bridge.ros.simulator.gripper import SimulatedGripper
from robot_bridge.ros.simulator.interface import SimulatedServices, StatePublisher, set_parameters
from robot_bridge.ros.simulator.log import DriverLog
from robot_bridge.simulation import renderer
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.franka import SimulatedFranka
from robot_bridge.simulation.scripted_policy import make_goal

_LATE_S = 0.05  # a delay beyond this is not caught up; ours


_Log = Annotated[Path | None, typer.Option(help="JSON lines file for events and the largest values of each second.")]


class _NodeSections(Config):
    robot: SimulationConfig


class SimulatedDriverError(ReportedError):
    """The simulated driver cannot start."""


def simulated_driver(  # noqa: PLR0917 - the parameters are the options of the command line
    scene: Annotated[
        Literal["bin", "pick_wipe", "pick_sweep"], typer.Option(help="Scene in front of the arm.")
    ] = "bin",
    split: Annotated[Literal["train", "test"], typer.Option(help="Split of the objects.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scene; equal to that of run_task --seed.")] = 0,
    camera_hz: Annotated[float, typer.Option(min=1, max=60, help="Rate of camera images.")] = 15.0,
    encoding: Annotated[Literal["rgb8", "bgr8"], typer.Option(help="Encoding of camera images.")] = "rgb8",
    generation: Annotated[
        Literal["0.7", "0.9"], typer.Option(help="Release of franka_ros whose types are served.")
    ] = "0.7",
    goal: Annotated[Path | None, typer.Option(help="Write the goal image of a task scene to this PNG file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing --goal.")] = False,
    log: _Log = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="robot.KEY=VALUE", help="Override a key of simulation.yaml.")
    ] = None,
) -> None:
    """Serve a simulated Franka on the ROS master of ROS_MASTER_URI, with the interface of franka_ros_interface.

    To test without an arm, use three terminals, each with `export ROS_IP=127.0.0.1`:

    1. `rosmaster --core`

    2. `python -m robot_bridge.ros.simulator.node --log driver.jsonl`

    3. `run_doctor --robot franka_ros`, then `run_collection --robot franka_ros --episodes 5`

    The service `/simulated_driver/fault` injects faults by name and duration; the reply to an unknown name lists the
    known ones. SIGTERM or Ctrl-C ends the driver; the last line on standard output is a JSON summary.
    """
    _check_goal(goal, scene, force)
    sections = load(
        _NodeSections,
        {"robot": "robots/simulation.yaml"},
        [f"robot.scene={scene}", f"robot.split={split}", *(set_ or [])],
    )
    try:
        Master("simulated_driver", timeout_s=5.0)
    except MasterError as error:
        raise SimulatedDriverError(str(error)) from error
    robot = SimulatedFranka(sections.robot.model_copy(update={"renderer": renderer.choose(sections.robot.renderer)}))
    scene_rng, rng = np.random.default_rng(seed).spawn(2)
    robot.reset(scene_rng)
    if goal is not None:
        _write_goal(goal, robot)
    settings = CameraSettings(
        RosImageConfig().topic, sections.robot.camera, renderer.choose(sections.robot.renderer), camera_hz, encoding
    )
    _serve(_Node(robot, settings, generation, DriverLog(log), rng))


def _check_goal(path: Path | None, scene: str, force: bool) -> None:
    if path is None:
        refuse_unused({"--force": force}, "without --goal")
        return
    refuse_unused({"--goal": scene == "bin"}, "with --scene bin, which has no task")
    if path.suffix != ".png" or (path.exists() and not force) or not path.parent.is_dir():
        raise SimulatedDriverError(
            f"--goal {path}: expected a new PNG in an existing folder; choose another name, or replace it with --force"
        )


def _write_goal(path: Path, robot: SimulatedFranka) -> None:
    image = cv2.cvtColor(make_goal(robot), cv2.COLOR_RGB2BGR)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    part.replace(path)


class _Node:
    """The parts of the driver, advanced together."""

    def __init__(
        self,
        robot: SimulatedFranka,
        settings: CameraSettings,
        generation: Generation,
        log: DriverLog,
        rng: np.random.Generator,
    ) -> None:
        types = load_types(generation)
        self._robot, self._rng, self.log = robot, rng, log
        simulation = robot.realtime()
        self.arm = SimulatedArm(simulation, log)
        set_parameters()
        self.states = StatePublisher(self.arm, types)
        self.gripper = SimulatedGripper(simulation, types, log)
        self.services = SimulatedServices(self.arm, types, log)
        self.camera = RosSimulatedCamera(settings, simulation, rng)
        self._new_scene = threading.Event()
        faults = Faults(self.arm, self.gripper, self.camera, self.states, self._new_scene.set)
        rospy.Service(names.FAULT, types["robot_bridge/Fault"], lambda request: faults.handle(request, types, log))
        self._faults = faults
        rospy.Subscriber(
            names.COMMAND_TIMEOUT, Float64, lambda message: self.arm.set_timeout(message.data), queue_size=1
        )
        rospy.Subscriber(
            names.JOINT_COMMANDS, types["franka_core_msgs/JointCommand"], self._command, queue_size=10, tcp_nodelay=True
        )

    def tick(self) -> None:
        """Advance by one tick, and publish the state."""
        now_s = time.monotonic()
        if self._new_scene.is_set():
            self._new_scene.clear()
            self._robot.reset(self._rng)
            simulation = self._robot.realtime()
            for part in (self.arm, self.gripper, self.camera):
                part.set_simulation(simulation)
        self._faults.tick(now_s)
        self.gripper.tick(TICK_S)
        self.arm.tick(now_s)
        self.states.flange_to_tip = self.services.flange_to_tip
        self.states.publish()

    def summary(self) -> dict[str, object]:
        """Return the summary of the run."""
        success = self.arm.simulation.task_success()
        return {**self.log.summary(), "task_success": asdict(success) if success else None}

    def _command(self, message: object) -> None:
        mode = message.mode  # type: ignore[attr-defined]
        values = message.velocity if mode == 2 else message.position  # type: ignore[attr-defined]
        self.arm.command(mode, message.names, values, time.monotonic())  # type: ignore[attr-defined]


def _serve(node: _Node) -> None:
    """Advance in real time until a signal arrives."""
    stopped = threading.Event()
    signals: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    print("the simulated driver is ready", file=sys.stderr, flush=True)
    due_s = time.monotonic()
    while not stopped.wait(max(0.0, due_s - time.monotonic())):
        due_s = max(due_s + TICK_S, time.monotonic() - _LATE_S)
        node.tick()
    node.camera.close()
    print(json.dumps(node.summary()), flush=True)
    node.log.close()
    rospy.signal_shutdown("stopped by a signal")
    if signals[0] == signal.SIGINT:
        raise KeyboardInterrupt


def main() -> NoReturn:
    """Run the command."""
    run(simulated_driver)


if __name__ == "__main__":
    main()
