"""Command that runs every block of the README and of the documentation."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.command import ReportedError, print_result, run
from tests.documentation.blocks import blocks, pages
from tests.documentation.session import Outcome, run_blocks


def _show(outcomes: Sequence[Outcome]) -> None:
    """Print one line per block, then the blocks that were left out by reason."""
    print(f"{'page':<44} block  seconds  exit  first line")
    for each in outcomes:
        block, code = each.block, "-" if each.code is None else each.code
        print(f"{block.page:<44} {block.number:>5} {each.seconds:>8.1f} {code:>5}  {block.first_line[:90]}")
    for each in outcomes:
        if each.code is None:
            print(
                f"left out: {each.block.page} {each.block.number}: {each.block.left_out}: {each.block.first_line[:70]}"
            )
    for each in outcomes:
        if each.problem:
            print(f"FAILED: {each.block.page} {each.block.number}: {each.problem}: {each.block.first_line[:70]}")


def documentation(
    page: Annotated[list[str] | None, typer.Option(help="Page to run, such as README.md; repeat for several.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="First page to run.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the blocks and how each is run; run none.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the copy and the logs (default: a temporary one).")
    ] = None,
    limit_s: Annotated[float, typer.Option(min=1, help="Longest time of one block.")] = 1800.0,
) -> None:
    """Run every block of the README and of the documentation, in the order in which they stand, in one folder.

    Without the README among the pages, the commands of this environment are on the path from the start. Exits with 1
    when a block failed; the last line on standard output is one JSON object.
    """
    chosen = _chosen(page or [], from_)
    found = [block for each in chosen for block in blocks(each)]
    if list_:
        for block in found:
            how = block.left_out and f"not run: {block.left_out}"
            print(f"{block.page} {block.number} {block.language}: {block.first_line}{how and f'  ({how})'}")
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell in the background ignores Ctrl-C
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="documentation-")) if out is None else out.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise ReportedError(f"--out {out}: expected a new or empty folder; choose another one")
    outcomes = run_blocks(found, folder, activated=chosen[0] != "README.md", limit_s=limit_s)
    _show(outcomes)
    failed = [f"{each.block.page} {each.block.number}" for each in outcomes if each.problem]
    print_result(
        {
            "pages": len(chosen),
            "blocks": len(outcomes),
            "run": sum(each.code is not None for each in outcomes),
            "left_out": sum(each.code is None for each in outcomes),
            "failed": failed,
            "seconds": round(sum(each.seconds for each in outcomes), 1),
            "logs": str(folder / "logs"),
        }
    )
    sys.exit(1 if failed else 0)


def _chosen(names: Sequence[str], first: str | None) -> list[str]:
    known = pages()
    for name in (*names, *filter(None, [first])):
        if name not in known:
            raise ReportedError(f"{name}: expected a page: one of {', '.join(known)}")
    after = known[known.index(first) :] if first else known
    return [each for each in after if not names or each in names]


def main() -> NoReturn:
    """Run the command."""
    run(documentation)


if __name__ == "__main__":
    main()
