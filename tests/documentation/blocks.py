"""The pages of the documentation and their blocks.

The pages are the README and those of the navigation in mkdocs.yml, in its order. Comments directly above a block say
how it is run:

- `<!-- not run: REASON -->`: it is left out, for one of `REASONS`.
- `<!-- needs: PROGRAM -->`: it is left out where the program is not installed.
- `<!-- terminal 2, ready at "TEXT" -->`: it runs in a terminal of its own until the end of the page, or until another
  block is run in that terminal; the next block starts when it has printed the text.

The output of a console block must have the words and the keys of the output that the page shows, but not its figures.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^((?:<!-- [^\n]* -->\n+)*)```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL, PYTHON = ("bash", "console"), "python"
REASONS = ("needs a real arm", "needs several GPUs", "needs RoboNet videos", "takes ", "downloads ")  # the only ones
_MARK = re.compile(r"<!-- (?:not run: (?P<reason>.*?)|needs: (?P<needs>\S+)|(?P<terminal>terminal .*?)) -->")
_TERMINAL = re.compile(r'terminal (\d+)(?:, ready at "(.*)")?')
_FRAME = re.compile(r"[─-╿]")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: The page, relative to the project.
        number: Its number among all fenced blocks of the page, from 1.
        language: The word after the fence.
        text: The lines inside the fence.
        not_run: Why it is left out; empty if it is run.
        needs: The program without which it is left out; empty if none.
        terminal: The terminal in which it is left running; empty if the next block waits for its end.
        ready: What it prints when the next block can start.
    """

    page: str
    number: int
    language: str
    text: str
    not_run: str = ""
    needs: str = ""
    terminal: str = ""
    ready: str = ""

    @property
    def first_line(self) -> str:
        """The first line, without the prompt."""
        return self.text.partition("\n")[0].removeprefix("$ ")

    @property
    def left_out(self) -> str:
        """Why the block is not run on this machine; empty if it is run."""
        missing = self.needs and shutil.which(self.needs) is None
        return self.not_run or (f"{self.needs} is not installed" if missing else "")

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands of a console block, each with the lines shown below it; other blocks are one command."""
        if self.language != "console":
            return [(self.text, [])]
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            elif found and found[-1][0].endswith("\\"):
                found[-1] = (f"{found[-1][0]}\n{line}", [])
            elif found:
                found[-1][1].append(line)
        return found


def pages() -> list[str]:
    """Return the README and the pages of the navigation in order, relative to the project."""
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    found = ["README.md"]
    for name in _leaves(navigation):
        places = (f"docs/{name}", name.upper().replace(".MD", ".md"))  # CONTRIBUTING.md is shown on the site, too
        found += [place for place in places if (ROOT / place).exists()][:1]
    return found


def _leaves(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, Mapping):
        yield from (leaf for value in entry.values() for leaf in _leaves(value))
    elif isinstance(entry, Sequence):
        yield from (leaf for value in entry for leaf in _leaves(value))


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page that are commands or Python."""
    found = []
    for number, (marks, language, text) in enumerate(FENCE.findall((ROOT / page).read_text(encoding="utf-8")), 1):
        given = {key: value for mark in _MARK.finditer(marks) for key, value in mark.groupdict("").items() if value}
        place = _TERMINAL.fullmatch(given.get("terminal", ""))
        terminal, ready = place.groups("") if place else ("", "")
        if language in (*SHELL, PYTHON):
            not_run, needs = given.get("reason", ""), given.get("needs", "")
            found.append(Block(page, number, language, text, not_run, needs, terminal, ready))
    return found


def difference(shown: Sequence[str], printed: str) -> str:
    """Return what of a shown output is not in a printed one: words without digits, and keys of JSON; else nothing."""
    words: set[str] = set()
    for line in shown:
        if line.startswith("{"):
            words |= {f'"{key}"' for key in json.loads(line)}
        else:
            plain = (word.strip(".,:;()") for word in _FRAME.sub(" ", line).split())
            words |= {word for word in plain if re.fullmatch(r"[^\W\d_]{3,}", word)}
    missing = sorted(word for word in words if word not in printed)
    return f"the page shows {', '.join(missing)}; the output does not have it" if missing else ""
