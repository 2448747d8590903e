"""README and docs/ compared with the code: options, configuration keys, files, links and runnable blocks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from configs import command
from tests.patience import patience

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ["configs", "robot_bridge", "data_collection", "ghvae_core", "planner"]
COMMANDS = {
    path.stem: f"{path.parent.name}.{path.stem}" for package in PACKAGES for path in ROOT.glob(f"{package}/run_*.py")
}
OTHER_TOOLS = {  # options of other programs that the pages name
    "--nproc-per-node",
    "--logdir",
    "--no-deps",
    "--now",
    "--user",
}
PLACEHOLDERS = {"section.key", "planner.n_candidate"}  # the second one is the example of a misspelt key
FENCE = re.compile(r"(<!-- runnable -->\s*)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
PYTHON_PAGE = ROOT / "docs" / "python_api.md"


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def _options(name: str) -> Mapping[str, set[str]]:
    """Return the options of a command by its words; the word of a command without words is empty."""
    captured: list[tuple[Any, str | None]] = []

    def capture(function: Callable[..., Any] | Mapping[str, Callable[..., Any]], about: str | None = None) -> None:
        captured.append((function, about))

    module = importlib.import_module(COMMANDS[name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "run", capture)
        module.main()
    ((function, about),) = captured
    functions = {command.DEFAULT: function} if callable(function) else function
    return {
        word: _options_of(typer.main.get_command(command.application(each, about))) for word, each in functions.items()
    }


def _options_of(parsed: Any) -> set[str]:
    """Return the options of one parsed command line, without hidden ones."""
    shown = [parameter for parameter in parsed.params if not getattr(parameter, "hidden", False)]
    return {option for each in shown for option in (*each.opts, *each.secondary_opts)} | {"--help"}


@cache
def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("documentation_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@cache
def _keys() -> set[str]:
    """Return every configuration key and its parents."""
    commands = _hooks().COMMANDS.values()
    keys = {setting.key for schema, files in commands for setting in _hooks().settings(schema, files)}
    return {".".join(key.split(".")[: n + 1]) for key in keys for n in range(key.count(".") + 1)}


def _statements(block: str) -> Iterator[list[str]]:
    """Yield the words of each statement of a shell block."""
    for line in block.replace("\\\n", " ").splitlines():
        for part in re.split(r"[|;&]+", line):
            lexer = shlex.shlex(part, posix=True, punctuation_chars=False)
            lexer.whitespace_split = True
            try:
                yield list(lexer)
            except ValueError:  # an apostrophe in prose between commands
                yield part.split("#")[0].split()


def _shell_blocks(text: str) -> Iterator[str]:
    yield from (block for _, language, block in FENCE.findall(text) if language in {"bash", "sh", "console", ""})
    yield from re.findall(r"(?:^ {4}.*\n)+", FENCE.sub("", text), re.MULTILINE)


def _sources_of(words: list[str]) -> str:
    """Return the text of the program of `python -m tests.benchmarks.NAME`; empty for other programs."""
    for first, module in pairwise(words):
        file = ROOT / (module.replace(".", "/") + ".py")
        if first == "-m" and module.startswith("tests.") and file.exists():
            return file.read_text(encoding="utf-8")
    return ""


def _is_in(option: str, source: str) -> bool:
    """Return whether the text of a program has an option, or the parameter from which typer generates it."""
    parameter = option.removeprefix("--").removeprefix("no-").replace("-", "_")
    return re.search(rf'"{re.escape(option)}\b|\b{re.escape(parameter)}\b', source) is not None


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_option_exists_in_its_command(page: Path) -> None:
    unknown: list[str] = []
    for block in _shell_blocks(page.read_text(encoding="utf-8")):
        for words in _statements(block):
            name = next((word.rpartition(".")[2] for word in words if word.rpartition(".")[2] in COMMANDS), None)
            if name is None:
                source = _sources_of(words)
                known = {each for each in words if _is_in(each, source)}
                allowed = OTHER_TOOLS | (known if source else {word for word in words if word.startswith("--")})
            else:
                by_word = _options(name)
                allowed = set().union(*(options for word, options in by_word.items() if not word or word in words))
            given = {match for word in words if word.startswith("--") for match in OPTION.findall(word)}
            unknown += [f"{' '.join(words)}: {option}" for option in given - allowed - OTHER_TOOLS]
    assert not unknown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_the_commands_has_every_option(name: str) -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n## {name}\n")
    section = rest.partition("\n## ")[0]
    assert section, f"no section on {name}"
    options = {each for options in _options(name).values() for each in options if each.startswith("--")}
    missing = {each for each in options - {"--help"} if f"{each}`" not in section and f"{each} " not in section}
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_option_named_in_the_text_exists(page: Path) -> None:
    known = set().union(*(options for name in COMMANDS for options in _options(name).values()))
    benchmarks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "benchmarks").glob("*.py"))
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    named = {option for span in re.findall(r"`([^`\n]+)`", text) for option in OPTION.findall(span)}
    assert not {option for option in named - known - OTHER_TOOLS if not _is_in(option, benchmarks)}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_configuration_key_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sections = {key.split(".")[0] for key in _keys()}
    key = re.compile(rf"^((?:{'|'.join(sections)})(?:\.[a-z_0-9]+)+)(?:=.*)?$")
    candidates = set(re.findall(r"--(?:set|compare)[ =]([a-z_0-9]+(?:\.[a-z_0-9]+)+)=", text))
    for span in re.findall(r"`([^`\n]+)`", text):
        if match := key.match(span):
            candidates.add(match[1])
    unknown = {each for each in candidates - _keys() - PLACEHOLDERS if not _is_module_or_file(each)}
    assert not unknown


def _is_module_or_file(name: str) -> bool:
    """Return whether a dotted name is a module, something that a module defines, or the name of a file."""
    if name.endswith((".yaml", ".json", ".md", ".html", ".png", ".py")):
        return True
    parts = name.split(".")
    return any((ROOT / "/".join(parts[:n])).with_suffix(".py").exists() for n in range(2, len(parts) + 1))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_file_of_the_project_that_is_named_exists(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    folders = (*PACKAGES, "docs", "tests")
    named = {span.rstrip("/") for span in spans if re.fullmatch(rf"(?:{'|'.join(folders)})/[\w./-]+", span)}
    missing = {name for name in named if not (ROOT / name).exists() and not list(ROOT.glob(f"{name}.*"))}
    assert not missing


def _anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_local_link_resolves(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken: list[str] = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


def test_the_configuration_reference_has_every_section_and_origin() -> None:
    text = _hooks().configuration_page()
    for key in ("planner.n_candidates", "robot.limits.step_limit_m", "training.module_steps", "serving.drain_s"):
        assert f"| `{key}` |" in text
    assert "paper E.1" in text and "≥" in text


def test_the_api_reference_has_every_module() -> None:
    text = "".join(_hooks().api_pages().values())
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.stem != "__init__"
    }
    assert {module for module in modules if f"::: {module}\n" not in text} == set()


def _runnable(page: Path) -> list[str]:
    return [block for mark, _, block in FENCE.findall(page.read_text(encoding="utf-8")) if mark]


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with the commands of this environment on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=patience(280), check=False
    )


@pytest.mark.parametrize("page", [page for page in PAGES if _runnable(page)], ids=_name)
def test_the_runnable_blocks_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    for block in _runnable(page):
        done = _run(["bash", "-euo", "pipefail", "-c", block], tmp_path)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_python_blocks_run_in_order_in_one_process(tmp_path: Path) -> None:
    blocks = [
        block for _, language, block in FENCE.findall(PYTHON_PAGE.read_text(encoding="utf-8")) if language == "python"
    ]
    assert blocks
    program = tmp_path / "python_api.py"
    program.write_text("\n".join(blocks), encoding="utf-8")
    done = _run([sys.executable, str(program)], tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed; ./bootstrap.sh dev installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = _run(command, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    index = (tmp_path / "site" / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "planner.solver" in index and "configuration.html" in index
