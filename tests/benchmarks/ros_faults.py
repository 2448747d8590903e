"""What happens when a part fails while the arm moves: each fault again and again, against the simulated driver."""

from __future__ import annotations

import json
import multiprocessing
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NoReturn

import numpy as np
import psutil
import typer
from numpy.typing import NDArray

from configs.command import ReportedError, run
from robot_bridge.kinematics import SPEED_LIMITS_RAD_S, forward
from tests.robot_bridge.ros.bridge import QUICK, config
from tests.robot_bridge.ros.rig import ROOT, Rig, open_rig

_REST_RAD_S = 0.03
_REST_S = 0.1  # so long below it is a rest
_MOVES_RAD_S = 0.15
_PATIENCE_S = 90.0  # for a run to begin moving, and to end
_STREAM_S = 0.2  # two commands further apart belong to two streams
_ONCE, _TWICE = "collection.max_faults_in_row=1", "collection.max_faults_in_row=2"
_SETTINGS = (*QUICK, "robot.gripper.homes=false", "supervision.give_up_s=0")  # what cannot go on ends at once

Process = subprocess.Popen[str]


class FaultError(ReportedError):
    """A fault ended otherwise than it must."""

    exit_code = 1


@dataclass(frozen=True)
class Fault:
    """One way to fail, and how the command that drives the arm must end."""

    name: str
    cause: Callable[[Rig, Process], None] | None  # None: the action itself is the fault
    exit_code: int
    told: str  # what the command must say, as a regular expression
    n_steps: int = 8  # of the episode that is broken
    settings: tuple[str, ...] = (_ONCE,)
    keeps_master: bool = True


@dataclass(frozen=True)
class Result:
    """One repetition. Times are seconds after the fault; None where there is nothing to tell."""

    fault: str
    n_commands: int  # after the fault
    last_command_s: float  # before the stream paused or ended
    rest_s: float | None  # until the arm rested
    largest_step: float  # between two commands of a stream, as a share of the bound
    outside_m: float  # of the workspace and its margin, by the worst command
    exit_code: int
    told: str
    last_words: str


@dataclass
class Wire:
    """What was said on it, with the monotonic time at which it came."""

    commands: list[tuple[float, int, NDArray[np.float64]]] = field(default_factory=list)  # time, number, joints
    speeds: list[tuple[float, float]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def listen(self) -> None:
        """Subscribe, as one more node of the master that this process has joined or joins now."""
        import rospy
        from sensor_msgs.msg import JointState

        from robot_bridge.ros import names
        from robot_bridge.ros.driver import Master
        from robot_bridge.ros.messages import load

        Master("wire", 5.0)
        rospy.Subscriber(names.JOINT_COMMANDS, load()["franka_core_msgs/JointCommand"], self._command, tcp_nodelay=True)
        rospy.Subscriber(names.JOINT_STATES, JointState, self._state, tcp_nodelay=True)

    def forget(self) -> None:
        """Begin anew."""
        with self.lock:
            self.commands, self.speeds = [], []

    def moves(self) -> bool:
        """Tell whether the arm moves, and is commanded to."""
        with self.lock:
            return bool(self.commands and self.speeds and self.speeds[-1][1] > _MOVES_RAD_S)

    def _command(self, message: Any) -> None:
        with self.lock:
            self.commands.append((time.monotonic(), message.header.seq, np.array(message.position)))

    def _state(self, message: Any) -> None:
        with self.lock:
            self.speeds.append((time.monotonic(), float(np.abs(message.velocity).max())))


def _switch(name: str) -> Callable[[Rig, Process], None]:
    return lambda rig, _process: rig.fault(name)


def _stop_and_go(_rig: Rig, process: Process) -> None:
    """Suspend the process that drives the arm, which is the collector's child."""
    (driving,) = [each for each in psutil.Process(process.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    driving.suspend()
    time.sleep(1.0)
    driving.resume()


FAULTS = (
    Fault("driver killed", lambda rig, _: rig.driver.kill(), 1, "expected a state of the last 0.2 s"),
    Fault("camera frozen", _switch("camera_frozen"), 1, "a frozen camera", settings=(_TWICE,)),
    Fault("camera silent", _switch("camera_silent"), 1, "look at the camera", settings=(_TWICE,)),
    Fault("joint state stale", _switch("joint_state_stale"), 1, "expected a state of the last 0.2 s"),
    Fault("reflex", _switch("reflex"), 0, "the arm stopped itself", settings=()),
    Fault("reflex storm", _switch("reflex_storm"), 1, "the arm stopped itself", settings=()),
    Fault("user stop", _switch("user_stop"), 1, "a person has stopped the arm", settings=()),
    Fault("gripper misses", _switch("gripper_misses"), 0, "", settings=()),
    Fault(
        "gripper hangs",
        _switch("gripper_hangs"),
        1,
        "expected an end within 2 s",
        40,
        (_ONCE, "robot.gripper.timeout_s=2.0"),
    ),
    Fault("master restarted", lambda rig, _: rig.restart_master(), 1, "ROS master", keeps_master=False),
    Fault("NaN action", None, 1, "finite"),
    Fault("target outside the box", None, 0, ""),
    Fault("planner stopped (SIGSTOP)", _stop_and_go, 0, "was interrupted|a state of the last 0.2 s", settings=()),
    Fault("supervisor killed (kill -9)", lambda _, process: process.kill(), -signal.SIGKILL, ""),
    Fault("Ctrl-C", lambda _, process: process.send_signal(signal.SIGINT), 130, ""),
)


def repeat(fault: Fault, seeds: range, out: Path) -> None:
    """Let a fault happen once for every seed, and append each result to a file of JSON lines."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job leaves ignored for all
    with open_rig() as rig:
        wire = Wire()
        wire.listen()
        try:
            for seed in seeds:
                if rig.is_down():
                    rig.start_driver()
                rig.fault("clear")
                result = _happen(fault, rig, wire, seed)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"seed": seed, **asdict(result)}) + "\n")
        finally:
            rig.leave()


def _happen(fault: Fault, rig: Rig, wire: Wire, seed: int) -> Result:
    rng = np.random.default_rng(seed)
    wire.forget()
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            _command(fault, seed, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _wait(wire, process, float(rng.uniform(0.5, 4.0)) if fault.cause else 0.0)
            began_s = time.monotonic()
            if fault.cause is not None:
                fault.cause(rig, process)
            _, words = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()
    return _result(fault, wire, began_s, process.returncode, words)


def _command(fault: Fault, seed: int, folder: str) -> list[str]:
    """Return the command that drives the arm: the collector, or a single action that is itself the fault."""
    if fault.cause is None:
        return [sys.executable, "-m", "tests.robot_bridge.ros.subject", fault.name, str(seed)]
    settings = [f"collection.n_steps={fault.n_steps}", "collection.steps_per_draw=[3,6]", *_SETTINGS, *fault.settings]
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "data_collection.run_collection", "--robot", "franka_ros", "--episodes", "1"]
    return [*command, "--seed", str(seed), "--out", f"{folder}/episodes", *overrides]


def _wait(wire: Wire, process: Process, delay_s: float) -> None:
    """Wait until the arm has been driven for a while, and moves."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while not wire.commands:
        _check_alive(process, deadline_s)
    due_s = time.monotonic() + delay_s
    while time.monotonic() < due_s or not wire.moves():
        _check_alive(process, deadline_s)


def _check_alive(process: Process, deadline_s: float) -> None:
    time.sleep(0.002)
    if process.poll() is not None or time.monotonic() > deadline_s:
        said = process.stderr.read() if process.stderr and process.poll() is not None else ""
        raise FaultError(f"expected an arm that moves, got exit code {process.poll()}: {said}")


def _result(fault: Fault, wire: Wire, began_s: float, exit_code: int, words: str) -> Result:
    limits, motion = config().limits, config().motion
    bound = motion.speed_fraction * SPEED_LIMITS_RAD_S * motion.tick_s
    low, high = np.array(limits.workspace_low_m), np.array(limits.workspace_high_m)
    with wire.lock:
        after = [(at_s - began_s, n, joints) for at_s, n, joints in wire.commands if at_s > began_s]
        speeds = [(at_s - began_s, speed) for at_s, speed in wire.speeds if at_s > began_s]
    steps = [
        np.abs(to - from_) / (bound * (n - m))  # of one command, where ROS dropped some in between
        for (s, m, from_), (t, n, to) in pairwise(after)
        if t - s < _STREAM_S and n > m
    ]
    hands = np.array([forward(joints).position_m for _, _, joints in after]).reshape(-1, 3)
    beyond = np.maximum(low - hands, hands - high).max(initial=0.0)
    lines = [line for line in words.splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if re.search(fault.told, line)), lines[-1] if lines else "")
    return Result(
        fault=fault.name,
        n_commands=len(after),
        last_command_s=_pause([at_s for at_s, _, _ in after]),
        rest_s=_rest(speeds),
        largest_step=max((float(step.max()) for step in steps), default=0.0),
        outside_m=max(0.0, float(beyond) - motion.workspace_margin_m),
        exit_code=exit_code,
        told=told.strip(),
        last_words=lines[-1].strip() if lines else "",
    )


def _pause(times_s: list[float]) -> float:
    """Return when the commands first ceased for a while."""
    return next(at_s for at_s, following_s in pairwise([0.0, *times_s, np.inf]) if following_s - at_s > _STREAM_S / 2)


def _rest(speeds: list[tuple[float, float]]) -> float | None:
    """Return when the arm first rested for a while."""
    since_s: float | None = None
    for at_s, speed in speeds:
        since_s = None if speed > _REST_RAD_S else at_s if since_s is None else since_s
        if since_s is not None and at_s - since_s > _REST_S:
            return since_s
    return None


def check(fault: Fault, results: list[Result]) -> Iterator[str]:
    """Say what did not end as it must."""
    for i, result in enumerate(results):
        if result.exit_code != fault.exit_code or not re.search(fault.told, result.told):
            yield f"{fault.name} ({i}): exit code {result.exit_code}, told '{result.told}', then '{result.last_words}'"
        if result.largest_step > 1.001 or result.outside_m > 0:
            yield f"{fault.name} ({i}): a step of {result.largest_step:.3f}, {result.outside_m:.4f} m outside"


def row(fault: Fault, results: list[Result]) -> str:
    """Return a line of the table."""
    last = _range([each.last_command_s for each in results])
    rest = _range([each.rest_s for each in results if each.rest_s is not None])
    step, outside = max(each.largest_step for each in results), max(each.outside_m for each in results)
    codes = ", ".join(str(code) for code in sorted({each.exit_code for each in results}))
    return (
        f"| {fault.name} | {len(results)} | {last} | {rest} | {100 * step:.0f} % | {1000 * outside:.0f} mm | {codes} |"
        f" {results[-1].told[:160]} |"
    )


def _range(values: list[float]) -> str:
    return f"{np.median(values):.2f}, at most {max(values):.2f}" if values else "-"


def read(out: Path) -> dict[str, list[Result]]:
    """Return what a file of JSON lines holds, by fault."""
    found: dict[str, list[Result]] = {}
    for line in out.read_text(encoding="utf-8").splitlines() if out.exists() else []:
        values = json.loads(line)
        del values["seed"]
        found.setdefault(values["fault"], []).append(Result(**values))
    return found


def ros_faults(
    times: Annotated[int, typer.Option(min=1, help="Repetitions of each fault.")] = 20,
    only: Annotated[list[str] | None, typer.Option(help="Of these faults alone.")] = None,
    out: Annotated[Path, typer.Option(help="JSON lines; those that are there are not repeated.")] = Path(
        "faults.jsonl"
    ),
) -> None:
    """Break one part at a time while the collector drives the arm, and print what followed.

    The table: seconds until commands ceased and until the arm rested; the largest step between two commands as a share
    of the bound; how far a command ever left the workspace and its margin; the exit code; what the user was told.
    """
    print("| fault | times | last command, s | at rest, s | largest step | outside | exit | told |")
    print("|---|---|---|---|---|---|---|---|")
    wrong: list[str] = []
    for fault in [each for each in FAULTS if not only or each.name in only]:
        n = len(read(out).get(fault.name, []))
        while n < times:
            seeds = range(n, times if fault.keeps_master else n + 1)
            child = multiprocessing.get_context("spawn").Process(target=_repeat_named, args=(fault.name, seeds, out))
            child.start()  # of its own, as a process joins one master in its life
            child.join()
            if child.exitcode:
                raise FaultError(f"{fault.name}: the benchmark itself failed; see above")
            n = len(read(out)[fault.name])
        results = read(out)[fault.name]
        wrong += check(fault, results)
        print(row(fault, results), flush=True)
    if wrong:
        raise FaultError("; ".join(wrong))


def _repeat_named(name: str, seeds: range, out: Path) -> None:
    """Repeat a fault by its name, which crosses to another process."""
    repeat(next(fault for fault in FAULTS if fault.name == name), seeds, out)


def main() -> NoReturn:
    """Run the command."""
    run(ros_faults)


if __name__ == "__main__":
    main()
