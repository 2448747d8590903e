"""A checkout to set up, on a machine whose python3, pip, apt-get and libraries stand in for the real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.patience import patience

ROOT = Path(__file__).resolve().parents[1]
# Stands for python3: `-m venv` makes an environment with the recording pip; all else runs the real interpreter.
PYTHON = """
if [ "$1 $2" != "-m venv" ]; then exec {real} "$@"; fi
echo venv >>{calls}
[ ! -e {folder}/slow-venv ] || sleep 60
{real} -m venv --without-pip "$3" && cp -r {folder}/pip {folder}/pip-1.0.dist-info "$3"/lib/python3*/site-packages
"""
# `torch` stands for the packages: `slow-pip` interrupts their installation when files are there but no INSTALLER.
PIP = """
import os, sys, sysconfig, time
from pathlib import Path

folder, site = Path({folder!r}), Path(sysconfig.get_path("purelib"))
with Path({calls!r}).open("a") as calls:
    print("pip", *sys.argv[1:], file=calls)
if sys.argv[1] == "list":
    print("nvidia-cublas==1.0" if (folder / "cuda").exists() else "numpy==2.0")
if sys.argv[1] == "install":
    info = site / "torch-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").touch()
    print("  Downloading torch-1.0-py3-none-any.whl (12.5 MB)", flush=True)
    Path(sys.argv[sys.argv.index("--log") + 1]).write_text("  Downloading torch-1.0-py3-none-any.whl (12.5 MB)")
    if (folder / "slow-pip").exists():
        time.sleep(60)
    (info / "RECORD").write_text("torch.py,,7\\n")
    (site / "torch.py").write_text("a = 12\\n")
    (info / "INSTALLER").write_text("pip\\n")
    sys.exit((folder / "no-network").exists())
"""
LIBRARIES = """
import os

def CDLL(name):
    if name not in os.environ["LIBRARIES"].split():
        raise OSError(name)
    return name
"""
OPENGL = "libEGL_mesa.so.0 libEGL.so.1 libGL.so.1"


class Checkout:
    """A folder with bootstrap.sh, a machine's programs in `bin`, and a record of their calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "checkout"
        self.log, self.bin = folder / "calls", folder / "bin"
        self.environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.environ |= {"LIBRARIES": OPENGL, "PYTHONPATH": str(folder / "stubs"), "PYTHONDONTWRITEBYTECODE": "1"}
        self.environ["PATH"] = f"{self.bin}:{self.environ['PATH']}"
        for path in (self.root, self.bin, folder / "stubs", folder / "pip", folder / "pip-1.0.dist-info"):
            path.mkdir()
        for name in ("bootstrap.sh", "setup.py", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        places = {"real": sys.executable, "calls": self.log, "folder": folder}
        self.program("python3", PYTHON.format(**places))
        for name in ("apt-get", "dpkg", "sudo"):
            self.program(name, f'echo {name} "$@" >>{self.log}; exit 1')
        (folder / "stubs" / "ctypes.py").write_text(LIBRARIES)
        (folder / "pip" / "__init__.py").touch()
        (folder / "pip" / "__main__.py").write_text(PIP.format(folder=str(folder), calls=str(self.log)))
        for name in ("METADATA", "RECORD", "INSTALLER"):
            (folder / "pip-1.0.dist-info" / name).touch()
        self.log.touch()

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{script}\n")
        (self.bin / name).chmod(0o755)

    def start(self, extra: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / "bootstrap.sh"), extra],
            env=self.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, extra: str, *, code: int = 0, environ: dict[str, str] | None = None) -> str:
        """Run bootstrap.sh and return what it printed."""
        with self.start(extra, **(environ or {})) as process:
            text, _ = process.communicate(timeout=patience(60))
        assert process.returncode == code, text
        return text

    def calls(self, program: str = "") -> list[str]:
        """Return the recorded calls since the last time, of one program or of all."""
        lines = self.log.read_text().splitlines()
        self.log.write_text("")
        return [line for line in lines if line.startswith(program)]

    def wait_for_call(self, start: str) -> None:
        deadline_s = time.monotonic() + patience(30)
        while not any(line.startswith(start) for line in self.log.read_text().splitlines()):
            assert time.monotonic() < deadline_s, f"no call of {start}"
            time.sleep(0.02)

    @property
    def site(self) -> Path:
        (site,) = (self.root / ".venv" / "lib").glob("python*/site-packages")
        return site
