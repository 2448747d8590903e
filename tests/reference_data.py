"""Genuine robot videos and reference values of metrics, in a folder next to the project; tests skip without it."""

from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).resolve().parents[2] / "shared" / "data"
