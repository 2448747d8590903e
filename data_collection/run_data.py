"""`run_data`: what a collection holds, whether it is sound, and the ways out of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from configs.command import run
from data_collection.atomic_io import write_new
from data_collection.episode import EpisodeError

if TYPE_CHECKING:
    from data_collection.storage.journal import Value

Folder = Annotated[Path, typer.Argument(help="Folder of a collection.", show_default=False)]


class UnsoundError(EpisodeError):
    """Something is not as it was written. Nothing was changed."""

    exit_code = 1


def list_episodes(
    folder: Folder,
    last: Annotated[int, typer.Option(min=0, help="Only so many, the newest; 0: all.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as in index.jsonl.")] = False,
) -> None:
    """List the closed episodes."""
    from data_collection.storage import index  # noqa: PLC0415 - HDF5 would make --help slow

    rows = index.read(_folder(folder))
    shown = rows[-last:] if last else rows
    if as_json:
        print("".join(row.line() for row in shown), end="")
        return
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("number", "steps", "seconds", "KB", "closed", "seen", "moved cm", "lifted", "tries"):
        table.add_column(name, no_wrap=True)
    table.add_column("families", overflow="fold")
    for row in shown:
        when = time.strftime("%m-%d %H:%M", time.localtime(row.closed_s))
        table.add_row(
            *(str(row.number), str(row.n_steps), f"{row.recorded_s:.1f}", f"{row.n_bytes / 1000:.0f}", when),
            *(str(row.objects_seen), f"{100 * row.objects_moved_m:.0f}", "yes" if row.lifted else ""),
            *(str(row.attempt + 1), row.families),
        )
    Console().print(table)
    print(f"{len(shown)} of {len(rows)} episodes, {sum(row.recorded_s for row in rows) / 3600:.2f} h recorded")


def show(
    folder: Folder,
    number: Annotated[int, typer.Argument(min=0, help="Of the episode.")],
    out: Annotated[Path | None, typer.Option(help="A new file: .png, or .gif for all frames.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="How many frames a picture shows.")] = 12,
) -> None:
    """Draw an episode: frames with what was measured and done, as a sheet (.png) or an animation (.gif)."""
    from data_collection.formats.robonet import read_episode  # noqa: PLC0415
    from data_collection.reports import contact_sheet  # noqa: PLC0415
    from data_collection.storage import index  # noqa: PLC0415

    target = out or Path(f"episode_{number}.png")
    if target.suffix not in {".png", ".gif"}:
        raise EpisodeError(f"--out: expected a name that ends in .png or .gif, got {target}")
    _check_free(target)
    names = [path for path in index.episodes(_folder(folder)) if path.name.endswith(f"_traj{number}.hdf5")]
    if not names:
        raise EpisodeError(f"{folder}: expected an episode of number {number}, got none; see run_data list")
    episode = read_episode(names[0])
    picture = (
        contact_sheet.animation(episode) if target.suffix == ".gif" else contact_sheet.contact_sheet(episode, frames)
    )
    _write_new(target, picture)


def verify(
    folder: Folder,
    quick: Annotated[bool, typer.Option("--quick", help="Hash every byte, but decode no video.")] = False,
) -> None:
    """Hash and read every episode. Exits with 1 where one is damaged; the last line is a JSON summary."""
    from data_collection.storage import index  # noqa: PLC0415
    from data_collection.storage import verify as verification  # noqa: PLC0415

    verdict = verification.VerificationResult()
    with _progress("verifying", len(index.episodes(_folder(folder)))) as steps:
        for _ in verification.verify(folder, not quick, verdict):
            next(steps)
    print(json.dumps(asdict(verdict)))
    if not verdict.is_clean:
        names = ", ".join([*verdict.damaged, *(f"number {number} twice" for number in verdict.twice)][:5])
        raise UnsoundError(
            f"{folder}: not sound: {names}; run_data quarantine sets files aside, their numbers are free"
        )


def quarantine(
    folder: Folder,
    numbers: Annotated[list[int], typer.Argument(min=0, help="Of the episodes to set aside.")],
    reason: Annotated[str, typer.Option(help="In a word: letters, digits and _.")] = "by_hand",
) -> None:
    """Set episodes aside: training no longer sees them, and `run_collection --resume` makes others in their place."""
    from data_collection.storage import index  # noqa: PLC0415
    from data_collection.storage.folder import set_aside  # noqa: PLC0415
    from data_collection.storage.journal import Journal  # noqa: PLC0415

    if not (reason.isascii() and reason.replace("_", "a").isalnum()):
        raise EpisodeError(f"--reason: expected letters, digits and _, got {reason!r}")
    paths = {}
    for path in index.episodes(_folder(folder)):
        paths[int(path.stem.rpartition("_traj")[2])] = path
    missing = [number for number in numbers if number not in paths]
    if missing:
        raise EpisodeError(f"{folder}: expected episodes of these numbers, got none of {missing}; nothing was moved")
    for number in sorted(set(numbers)):
        to = set_aside(paths[number], reason)
        told: dict[str, Value] = {"number": number, "kind": reason, "reason": "set aside by a person"}
        Journal(folder).note("quarantined", {**told, "file": str(to.relative_to(folder))})
        print(to)


def reindex(folder: Folder) -> None:
    """Make the index anew from the files, which are the truth. Exits with 1 where one is damaged."""
    from data_collection.storage import index  # noqa: PLC0415
    from data_collection.storage import verify as verification  # noqa: PLC0415
    from data_collection.storage.folder import EpisodeFolder  # noqa: PLC0415

    if not index.episodes(_folder(folder)):
        raise EpisodeError(f"{folder}: expected a folder of closed episodes, got none")
    with EpisodeFolder(folder, "").lock(exclusive=True, timeout_s=1.0):
        verdict = verification.VerificationResult()
        with _progress("reading", len(index.episodes(folder))) as steps:
            for _ in verification.verify(folder, False, verdict):
                next(steps)
        sound = [path for path in index.episodes(folder) if path.name not in verdict.damaged]
        index.write(folder, map(index.describe, sound))
    print(json.dumps({"folder": str(folder), "episodes": len(sound), "damaged": verdict.damaged}))
    if verdict.damaged:
        raise UnsoundError(f"{folder}: damaged and not indexed: {', '.join([*verdict.damaged][:5])}")


def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    to: Annotated[Literal["lerobot", "webdataset"], typer.Option(help="LeRobotDataset v3.0, or tar shards.")],
    task: Annotated[str, typer.Option(help="What LeRobot is told that the arm does.")] = "play",
) -> None:
    """Write the episodes as a dataset of another library. The folder appears when it is whole."""
    from data_collection.export.lerobot import export_lerobot  # noqa: PLC0415
    from data_collection.export.webdataset import export_shards  # noqa: PLC0415
    from data_collection.storage import index  # noqa: PLC0415

    by_number = sorted(index.read(_folder(folder)), key=lambda row: row.number)
    paths = [folder / row.file for row in by_number]
    with _progress("exporting", len(paths)) as steps:
        if to == "lerobot":
            n = export_lerobot(paths, out, task=task, on_episode=lambda: next(steps))
        else:
            n = export_shards(paths, out, on_episode=lambda: next(steps))
    n_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(json.dumps({"folder": str(out), "episodes": n, "bytes": n_bytes}))


def page(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="A new file; in the folder's parent by default.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="How many episodes are shown, drawn by chance.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of that chance.")] = 0,
) -> None:
    """Write one HTML page: what the collection holds, how it came about, and episodes to look at."""
    from data_collection.reports.collection_report import collection_report  # noqa: PLC0415

    target = out or folder.resolve().with_name(f"{folder.resolve().name}.html")
    _check_free(target)
    text = collection_report(_folder(folder), shown, seed)
    _write_new(target, text.encode())


def status(
    folder: Folder,
    max_age_s: Annotated[float, typer.Option(min=1, help="A run that has said nothing for longer is not well.")] = 60.0,
) -> None:
    """Print what the run in a folder last said of itself. Exits with 1 where it goes on no more, but should."""
    from data_collection.collection.status import read_status  # noqa: PLC0415
    from data_collection.storage.journal import DONE, read, summarize  # noqa: PLC0415

    told = read_status(_folder(folder))
    history = summarize(read(folder))
    age_s = time.time() - told["time_s"]
    more = {
        "age_s": round(age_s, 1),
        "runs": history.runs,
        "interventions_per_day": round(history.interventions_per_day, 2),
        "dropped_in_all_runs": dict(history.dropped),
        "quarantined_in_all_runs": dict(history.quarantined),
        "lost_in_all_runs": history.lost,
    }
    print(json.dumps({**told, **more}, indent=1))
    if told.get("ended") is None and age_s > max_age_s:
        raise UnsoundError(f"{folder}: the run has said nothing for {age_s:.0f} s; go on with run_collection --resume")
    if told.get("ended") not in {None, DONE}:
        raise UnsoundError(f"{folder}: the run has ended: {told['ended']}")


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: expected the folder of a collection, got none")
    return folder


def _check_free(path: Path) -> None:
    if path.exists():
        raise EpisodeError(f"{path}: exists already; name another with --out")
    if not path.parent.is_dir():
        raise EpisodeError(f"{path}: expected a name in a folder that exists; name another with --out")


def _write_new(path: Path, data: bytes) -> None:
    write_new(path, data)
    print(path)


@contextmanager
def _progress(what: str, n: int) -> Iterator[Iterator[None]]:
    """Show progress with the time left on stderr; each `next` of what is given is a step."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=n)

        def steps() -> Iterator[None]:
            while True:
                bar.advance(task)
                yield

        yield steps()


WORDS: Final[Mapping[str, Callable[..., Any]]] = {
    "list": list_episodes,
    "show": show,
    "verify": verify,
    "quarantine": quarantine,
    "reindex": reindex,
    "export": export,
    "page": page,
    "status": status,
}


def main() -> None:
    """Run the command."""
    run(WORDS, "Look into a collection: what it holds, whether it is sound, and the ways out of it.")


if __name__ == "__main__":
    main()
