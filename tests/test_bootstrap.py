"""bootstrap.sh: interruptions, damaged environments, and users without rights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.checkout import Checkout
from tests.patience import patience


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def ready(checkout: Checkout) -> Checkout:
    """A checkout that was set up; nothing that happened is left in the record."""
    checkout.run("all")
    checkout.calls()
    return checkout


def _repaired(checkout: Checkout, reason: str) -> None:
    """Check that the next set-up makes the environment again, once, and that the one after it does nothing."""
    text = checkout.run("all")
    assert reason in text and "finished in" in text
    assert [line.split()[0] for line in checkout.calls()] == ["venv", "pip"]
    assert checkout.run("all") == "" and not checkout.calls()
    assert not (checkout.root / ".venv" / "incomplete").exists()


def test_a_fresh_checkout_is_set_up_once_and_says_what_it_does(checkout: Checkout) -> None:
    text = checkout.run("all")
    assert "to fetch: about" in text and "minutes" in text
    assert "Downloading torch-1.0-py3-none-any.whl (12.5 MB)" in text
    assert "12 MB downloaded" in text and ".venv takes" in text
    assert checkout.calls() == [
        "venv",
        "pip install --disable-pip-version-check --log .venv/pip.log --progress-bar off -c constraints.txt -e .[all]",
    ]
    assert checkout.run("all") == "" and not checkout.calls()


def test_a_changed_list_of_packages_is_installed_into_the_same_environment(ready: Checkout) -> None:
    os.utime(ready.root / "constraints.txt", (time.time() + 5, time.time() + 5))
    text = ready.run("all")
    assert "updating .venv: packages of .[all]" in text and "to fetch" not in text
    assert [line.split()[0] for line in ready.calls()] == ["pip"]


def test_the_packages_of_dev_include_those_of_all(checkout: Checkout) -> None:
    checkout.run("dev")
    checkout.calls()
    assert checkout.run("all") == "" and not checkout.calls()


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_while_the_environment_is_created(checkout: Checkout, by: signal.Signals) -> None:
    (checkout.folder / "slow-venv").touch()
    with checkout.start("all") as process:
        checkout.wait_for_call("venv")
        os.killpg(process.pid, by)
        text = process.communicate(timeout=patience(30))[0]
    assert process.returncode == (130 if by == signal.SIGINT else -by)
    assert ("interrupted; run the same command again" in text) == (by == signal.SIGINT)
    (checkout.folder / "slow-venv").unlink()
    checkout.calls()
    _repaired(checkout, ".venv is made again: its creation was interrupted")


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_while_packages_are_installed(checkout: Checkout, by: signal.Signals) -> None:
    (checkout.folder / "slow-pip").touch()
    with checkout.start("all") as process:
        checkout.wait_for_call("pip install")
        while not list(checkout.site.glob("torch-*/METADATA")):
            time.sleep(0.02)
        os.killpg(process.pid, by)
        process.communicate(timeout=patience(30))
    assert process.returncode == (130 if by == signal.SIGINT else -by)
    (checkout.folder / "slow-pip").unlink()
    checkout.calls()
    (checkout.site / "~orch").mkdir()  # pip renames what it replaces
    assert "the installation of torch-1.0 was interrupted; it is repeated" in checkout.run("all")
    assert [line.split()[0] for line in checkout.calls()] == ["pip"]
    assert not (checkout.site / "~orch").exists()
    assert checkout.run("all") == "" and not checkout.calls()


def test_a_lost_network_is_reported_and_the_next_set_up_continues(checkout: Checkout) -> None:
    (checkout.folder / "no-network").touch()
    assert "pip could not install the packages (see above); run the same command again" in checkout.run("all", code=1)
    (checkout.folder / "no-network").unlink()
    checkout.calls()
    assert "finished" in checkout.run("all")
    assert [line.split()[0] for line in checkout.calls()] == ["pip"]


def test_a_file_that_was_cut_off_is_installed_again(ready: Checkout) -> None:
    (ready.site / "torch.py").write_text("a =")
    (ready.root / ".venv" / "ready-all").unlink()
    assert "installation of torch-1.0 was interrupted" in ready.run("all")
    assert (ready.site / "torch.py").read_text() == "a = 12\n"


def test_an_environment_whose_pip_was_cut_off_is_made_again(ready: Checkout) -> None:
    (ready.site / "pip-1.0.dist-info" / "INSTALLER").unlink()
    (ready.root / ".venv" / "ready-all").unlink()
    _repaired(ready, ".venv is made again: the installation of pip was interrupted")


def test_an_environment_of_an_earlier_version_without_pip_is_made_again(checkout: Checkout) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(checkout.root / ".venv")], check=True)
    _repaired(checkout, ".venv is made again: it has no pip for Python 3")


def test_an_environment_that_is_marked_incomplete_is_made_again(ready: Checkout) -> None:
    (ready.root / ".venv" / "incomplete").touch()
    _repaired(ready, ".venv is made again: its creation was interrupted")


def test_an_environment_of_other_tools_that_is_in_use_is_kept(checkout: Checkout) -> None:
    environment = checkout.root / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (checkout.site / "lab-1.0.dist-info").mkdir()
    for name in ("METADATA", "RECORD", "INSTALLER"):
        (checkout.site / "lab-1.0.dist-info" / name).touch()
    (checkout.site / "ensurepip").mkdir()  # stands for the one of Python, which takes seconds
    (checkout.site / "ensurepip" / "__init__.py").touch()
    (checkout.site / "ensurepip" / "__main__.py").write_text(
        f"import shutil\nfor name in ('pip', 'pip-1.0.dist-info'):\n"
        f"    shutil.copytree({str(checkout.folder)!r} + '/' + name, {str(checkout.site)!r} + '/' + name)\n"
    )
    text = checkout.run("all", environ={"PYTHONPATH": f"{checkout.folder / 'stubs'}:{checkout.site}"})
    assert "made again" not in text and "finished" in text
    assert [line.split()[0] for line in checkout.calls()] == ["pip"]
    assert (checkout.site / "lab-1.0.dist-info").is_dir()


def test_an_environment_without_the_script_that_activates_it_is_made_again(ready: Checkout) -> None:
    (ready.root / ".venv" / "bin" / "activate").unlink()
    _repaired(ready, ".venv is made again: its creation was interrupted")


def test_an_environment_whose_python_is_gone_is_made_again(ready: Checkout) -> None:
    for link in (ready.root / ".venv" / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python3.9")
    _repaired(ready, ".venv is made again: its Python does not run any more")


def test_an_environment_of_an_older_python_is_made_again(ready: Checkout) -> None:
    python = ready.root / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.12 && exit\n[ "$2" = "" ]\n')
    python.chmod(0o755)
    _repaired(ready, "it was made by Python 3.10.12, expected Python 3.11 or newer")


@pytest.mark.parametrize("recorded", [True, False])
def test_a_moved_or_copied_checkout_gets_an_environment_of_its_own(ready: Checkout, recorded: bool) -> None:
    former = ready.root
    venv = former / ".venv"
    if not recorded:  # as an earlier version left it
        (venv / "made-in").unlink()
        (venv / "bin" / "pip").write_text(f"#!{venv}/bin/python3\n")
    ready.root = ready.folder / "moved"
    shutil.copytree(former, ready.root, symlinks=True)
    _repaired(ready, ".venv is made again: it was made in another folder")
    ready.root = former
    assert ready.run("all") == "" and not ready.calls()


def test_two_at_the_same_time_make_one_environment(checkout: Checkout) -> None:
    (checkout.folder / "slow-venv").touch()
    with checkout.start("all") as first:
        checkout.wait_for_call("venv")
        (checkout.folder / "slow-venv").unlink()
        with checkout.start("all") as second:
            assert second.stdout is not None
            assert "another set-up is running in this checkout" in second.stdout.readline()
            os.killpg(first.pid, signal.SIGKILL)
            text = second.communicate(timeout=patience(60))[0]
    assert second.returncode == 0 and "its creation was interrupted" in text and "finished" in text


def test_a_pip_that_outlives_its_set_up_is_waited_for(checkout: Checkout) -> None:
    (checkout.folder / "slow-pip").touch()
    with checkout.start("all") as first:
        checkout.wait_for_call("pip install")
        first.kill()  # bash alone
        first.wait()
        with checkout.start("all") as second:
            assert second.stdout is not None
            assert "another set-up is running in this checkout" in second.stdout.readline()
            (checkout.folder / "slow-pip").unlink()
            os.killpg(first.pid, signal.SIGKILL)
            text = second.communicate(timeout=patience(60))[0]
    assert second.returncode == 0 and "finished" in text


@pytest.mark.parametrize("path", ["/usr/local/bin:/usr/bin:/bin", "/usr/bin:/bin:/usr/sbin:/sbin"])
def test_opengl_that_can_be_loaded_is_found_whatever_the_path(checkout: Checkout, path: str) -> None:
    assert "OpenGL" not in checkout.run("all", environ={"PATH": f"{checkout.bin}:{path}"})
    assert not checkout.calls("apt-get")


@pytest.mark.parametrize("libraries", ["", "libEGL.so.1 libGL.so.1", "libEGL_mesa.so.0 libEGL.so.1"])
def test_missing_opengl_is_installed_once(checkout: Checkout, libraries: str) -> None:
    checkout.program("id", "echo 0")
    checkout.program("apt-get", f'echo apt-get "$@" >>{checkout.log}')
    assert "OpenGL is missing; installing libegl1 libgl1" in checkout.run("all", environ={"LIBRARIES": libraries})
    assert checkout.calls("apt-get")[-1].endswith("libegl1 libgl1")
    assert checkout.run("all", environ={"LIBRARIES": libraries}) == "" and not checkout.calls()


def test_a_user_without_rights_is_told_once_what_to_install(checkout: Checkout) -> None:
    checkout.program("id", 'if [ "$1" = -u ]; then echo 1000; else echo ada; fi')
    text = checkout.run("dev", environ={"LIBRARIES": ""})
    assert "OpenGL is missing; as root: apt-get install libegl1 libgl1" in text
    assert "images are rendered by ray casting" in text
    assert "ROS is missing; as root: apt-get install python3-rospy" in text and "tests of --robot franka_ros" in text
    assert not checkout.calls("apt-get")
    assert checkout.run("dev", environ={"LIBRARIES": ""}) == "" and not checkout.calls("apt-get")


def test_ros_that_is_installed_later_becomes_visible(checkout: Checkout) -> None:
    checkout.run("dev")
    assert not (checkout.site / "ros.pth").exists()
    checkout.program("dpkg", "exit 0")
    assert checkout.run("dev") == ""
    assert (checkout.site / "ros.pth").read_text() == "/usr/lib/python3/dist-packages\n"


def test_an_older_python_is_refused_before_anything_is_installed(checkout: Checkout) -> None:
    checkout.program("python3.10", '[ "$1" = --version ] && echo Python 3.10.12 && exit 0; exit 1')
    text = checkout.run("all", code=1, environ={"PYTHON": "python3.10"})
    assert "expected Python 3.11 or newer, found Python 3.10.12" in text
    assert not (checkout.root / ".venv").exists() and not checkout.calls()


def test_an_unknown_extra_is_refused(checkout: Checkout) -> None:
    assert "expected an extra of setup.py (all, dev, ...) or ros, got roz" in checkout.run("roz", code=1)
