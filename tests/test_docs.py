"""README and docs/ compared with the code: options, configuration keys, files, links, and what their blocks do."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from configs import command
from tests.documentation.blocks import FENCE, REASONS, ROOT, Block, blocks, difference, pages
from tests.documentation.session import run_blocks
from tests.patience import patience

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
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
QUICK_PAGES = [
    "docs/commands.md",
    "docs/collection.md",
    "docs/data_formats.md",
    "docs/architecture.md",
    "docs/python_api.md",
]


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


def test_every_page_is_run_and_only_known_marks_and_reasons_are_used() -> None:
    assert {_name(page) for page in PAGES} - {"docs/index.md"} <= set(pages())
    for page in pages():
        text = (ROOT / page).read_text(encoding="utf-8")
        marks = re.findall(r"(?m)^<!-- .*? -->", text)
        assert all(re.match("<!-- (not run|needs|terminal)", mark) for mark in marks), page
        left_out = [block.not_run for block in blocks(page) if block.not_run]
        assert all(reason.startswith(REASONS) for reason in left_out), page
        assert len(marks) == len(re.findall(r"(?m)^<!-- .*? -->(?=\n+(?:<!--|```(?:bash|console|python)$))", text)), (
            page
        )


@pytest.mark.parametrize("page", QUICK_PAGES)
def test_the_blocks_of_a_quick_page_run_in_order(page: str, tmp_path: Path) -> None:
    outcomes = run_blocks(blocks(page), tmp_path / "run", activated=True, limit_s=patience(280))
    assert outcomes
    problems = [f"{each.block.first_line}: {each.problem}" for each in outcomes if each.problem]
    logs = "".join(
        path.read_text(encoding="utf-8")[-4000:] for path in sorted((tmp_path / "run" / "logs").glob("*.log"))
    )
    assert not problems, logs


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_block_of_the_readme_and_the_documentation_runs_in_order(tmp_path: Path) -> None:
    found = [block for page in pages() for block in blocks(page)]
    outcomes = run_blocks(found, tmp_path / "run", activated=False, limit_s=patience(600))
    assert not [(each.block.page, each.block.number, each.problem) for each in outcomes if each.problem]


def _outcomes(text: str, tmp_path: Path, language: str = "bash", **marks: str) -> tuple[int | None, str]:
    (outcome,) = run_blocks([Block("README.md", 1, language, text, **marks)], tmp_path, activated=True, limit_s=60)
    return outcome.code, outcome.problem


def test_a_block_that_fails_or_prints_another_table_is_reported(tmp_path: Path) -> None:
    assert _outcomes("false\ntrue\n", tmp_path / "a") == (1, "exit code 1")
    assert _outcomes("$ echo error: no; exit 2\nerror: no\n", tmp_path / "b", "console") == (2, "")
    shown = "$ echo number 5, seconds\nnumber 3 seconds\n"
    assert _outcomes(shown, tmp_path / "c", "console") == (0, "")
    assert "steps" in _outcomes(shown.replace("3", "steps"), tmp_path / "d", "console")[1]
    assert _outcomes("raise SystemExit(3)\n", tmp_path / "e", "python")[0] == 1
    assert _outcomes("false\n", tmp_path / "f", not_run="takes hours") == (None, "")


def test_blocks_share_folder_variables_and_terminals(tmp_path: Path) -> None:
    texts = ["export WORD=said\nmkdir inner && cd inner\n", "echo $WORD > file; echo ready; sleep 600\n", "cat file\n"]
    first, second, third = (Block("README.md", n, "bash", text) for n, text in enumerate(texts, 1))
    server = Block("README.md", 2, "bash", second.text, terminal="1", ready="ready")
    outcomes = run_blocks([first, server, third], tmp_path / "run", activated=True, limit_s=60)
    assert [each.problem for each in outcomes] == ["", "", ""]
    assert (tmp_path / "run" / "logs" / "README-03.log").read_text(encoding="utf-8") == "said\n"


def test_the_output_is_compared_without_its_figures() -> None:
    shown = ["│ PSNR (dB) ↑ │ 21.94 ± 0.44 │", '{"success": true, "steps": 19}']
    assert difference(shown, 'PSNR 3\n{"success": false, "steps": 1}') == ""
    assert "PSNR" in difference(shown, '{"success": false, "steps": 1}')
    assert "steps" in difference(shown, 'PSNR\n{"success": false}')


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed; ./bootstrap.sh dev installs it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(280), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    index = (tmp_path / "site" / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "planner.solver" in index and "configuration.html" in index
