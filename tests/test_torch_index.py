"""TORCH_INDEX, from make to pip: an index for torch alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from tests.checkout import ROOT, Checkout

PINNED = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
VERSION = next(line.partition("==")[2] for line in PINNED if line.startswith("torch=="))


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_torch_index_is_used_for_torch_alone(checkout: Checkout) -> None:
    index = "https://ada:secret@example.org/cpu"
    text = checkout.run("all", environ={"TORCH_INDEX": index})
    assert "torch 2" in text and "from https://example.org/cpu" in text and "secret" not in text
    of_torch, _, of_all = checkout.calls("pip")
    assert of_torch.endswith(f"--force-reinstall --no-deps --index-url {index} torch=={VERSION}")
    assert of_all.endswith("-c constraints.txt -e .[all]") and "--index-url" not in of_all
    assert (checkout.root / ".venv" / "torch-index").read_text() == "https://example.org/cpu\n"
    assert checkout.run("all", environ={"TORCH_INDEX": index}) == "" and not checkout.calls()
    assert checkout.run("all") == "" and not checkout.calls()


def test_a_changed_torch_index_replaces_torch_and_its_cuda_packages(checkout: Checkout) -> None:
    checkout.run("all")
    checkout.calls()
    (checkout.folder / "cuda").touch()
    assert "from https://example.org/cpu" in checkout.run("all", environ={"TORCH_INDEX": "https://example.org/cpu"})
    calls = checkout.calls("pip")
    assert [call.split()[1] for call in calls] == ["install", "list", "uninstall", "install"]
    assert calls[2].endswith("-y nvidia-cublas")


def test_an_index_without_torch_is_reported_and_changes_nothing(checkout: Checkout) -> None:
    (checkout.folder / "no-network").touch()
    text = checkout.run("all", code=1, environ={"TORCH_INDEX": "https://example.org/none"})
    assert f"TORCH_INDEX=https://example.org/none: expected an index with torch {VERSION} for" in text
    assert not (checkout.root / ".venv" / "torch-index").exists()
    assert not list((checkout.root / ".venv").glob("ready-*"))


@pytest.mark.parametrize("target", ["demo", "test", "lint", "docs", "wheel"])
def test_make_hands_torch_index_to_the_set_up(target: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bootstrap.sh").write_text('#!/bin/sh\necho "index $TORCH_INDEX"; exit 1\n')
    (tmp_path / "bootstrap.sh").chmod(0o755)
    done = subprocess.run(
        ["make", target, "TORCH_INDEX=https://example.org/cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "index https://example.org/cpu" in done.stdout


BACKEND = """
from pathlib import Path
import zipfile

def prepare(folder):
    info = Path(folder) / "ghvae_foresight-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: ghvae-foresight\\nVersion: 0\\n"
                                   "Provides-Extra: all\\nRequires-Dist: torch>=2; extra == 'all'\\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    return info.name

def prepare_metadata_for_build_editable(folder, config=None):
    return prepare(folder)

def build_editable(folder, config=None, metadata=None):
    name = "ghvae_foresight-0-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        for file in (Path(metadata) / "METADATA", Path(metadata) / "WHEEL"):
            wheel.write(file, f"ghvae_foresight-0.dist-info/{file.name}")
        wheel.writestr("ghvae_foresight-0.dist-info/RECORD", "")
    return name
"""


def _index(folder: Path, local: str, cuda: str) -> str:
    """Make a package index with one build of torch, and return its address."""
    version = f"{VERSION}+{local}"
    page = folder / local / "torch"
    page.mkdir(parents=True)
    name = f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(page / name, "w") as wheel:
        info = f"torch-{version}.dist-info"
        wheel.writestr("torch/__init__.py", "")
        wheel.writestr("torch/version.py", f"__version__ = {version!r}\ncuda = {cuda}\nhip = None\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (page / "index.html").write_text(f'<a href="{name}">{name}</a>')
    return f"file://{folder / local}"


@pytest.mark.timeout(120)
def test_a_real_environment_takes_torch_from_an_index_and_changes_it(checkout: Checkout) -> None:
    (checkout.bin / "python3").unlink()
    (checkout.root / "backend.py").write_text(BACKEND)
    (checkout.root / "pyproject.toml").write_text(
        textwrap.dedent("""
            [build-system]
            requires = []
            build-backend = "backend"
            backend-path = ["."]
        """)
    )
    cpu, cuda = _index(checkout.folder, "cpu", "None"), _index(checkout.folder, "cu130", "'13.0'")
    (checkout.folder / "pip.conf").write_text(  # must not be asked for torch
        f"[global]\nindex-url = {cuda}\nextra-index-url = {cuda}\nfind-links = {cuda.removeprefix('file://')}/torch\n"
    )
    environ = {
        "PYTHON": sys.executable,
        "PYTHONPATH": "",
        "PIP_CONFIG_FILE": str(checkout.folder / "pip.conf"),
        "PIP_NO_CACHE_DIR": "1",
    }
    assert f"torch {VERSION}+cpu (CPU only)" in checkout.run("all", environ=environ | {"TORCH_INDEX": cpu})
    os.utime(checkout.root / "constraints.txt", (time.time() + 5, time.time() + 5))
    assert f"torch {VERSION}+cpu (CPU only)" in checkout.run("all", environ=environ)  # the pinned version accepts +cpu
    os.utime(checkout.root / "constraints.txt", (1, 1))
    assert f"torch {VERSION}+cu130 (CUDA 13.0)" in checkout.run("all", environ=environ | {"TORCH_INDEX": cuda})
    assert (checkout.root / ".venv" / "torch-index").read_text() == f"{cuda}\n"
