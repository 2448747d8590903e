"""`run_data`: list, show, verify, quarantine, export and report the episodes of a collection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from rich.console import Console
from rich.table import Table

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import print_result, refuse_unused, run
from configs.progress import ProgressBar, announce, counted, duration
from data_collection.atomic_io import write_file, write_new
from data_collection.episode import EpisodeError

if TYPE_CHECKING:
    from data_collection.storage.journal import Value

Folder = Annotated[Path, typer.Argument(help="Collection folder.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


_N_FRAMES = 12  # of a contact sheet
_TASK = "play"  # of a LeRobot dataset


class VerificationError(EpisodeError):
    """A file or a run is not in the expected state. Nothing was changed."""

    exit_code = 1


def list_episodes(
    folder: Folder,
    last: Annotated[int, typer.Option(min=0, help="Show only the newest N episodes; 0: all.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line, as in index.jsonl.")] = False,
) -> None:
    """List the episodes of a collection."""
    from data_collection.storage import index  # noqa: PLC0415 - HDF5 would make --help slow

    rows = index.read(_folder(folder))
    shown = rows[-last:] if last else rows
    if as_json:
        print("".join(row.line() for row in shown), end="")
        return
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("number", "steps", "seconds", "KB", "closed", "seen", "moved cm", "lifted", "attempts"):
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
    print(
        f"{len(shown)} of {counted(len(rows), 'episode')}, {sum(row.recorded_s for row in rows) / 3600:.2f} h recorded"
    )


def show(
    folder: Folder,
    number: Annotated[int, typer.Argument(min=0, help="Episode number.")],
    out: Annotated[Path | None, typer.Option(help="New file: .png (contact sheet) or .gif (all frames).")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Number of frames on a contact sheet (default: 12).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw an episode with its states and actions, as a contact sheet (.png) or an animation (.gif).

    Prints the name of the file.
    """
    from data_collection.formats.robonet import read_episode  # noqa: PLC0415
    from data_collection.reports import contact_sheet  # noqa: PLC0415
    from data_collection.storage import index  # noqa: PLC0415

    target = out or Path(f"episode_{number}.png")
    if target.suffix not in {".png", ".gif"}:
        raise EpisodeError(f"--out: expected a name that ends in .png or .gif, got {target}")
    is_animation = target.suffix == ".gif"
    refuse_unused({"--frames": frames is not None and is_animation}, "on an animation, which shows all frames")
    _check_free(target)
    names = [path for path in index.episodes(_folder(folder)) if path.name.endswith(f"_traj{number}.hdf5")]
    if not names:
        raise EpisodeError(f"{folder}: no episode has number {number}; see run_data list")
    episode = read_episode(names[0])
    with announce("drawing the episode"):
        if is_animation:
            image = contact_sheet.animation(episode)
        else:
            image = contact_sheet.contact_sheet(episode, frames or _N_FRAMES)
    write_new(target, image)
    _print_file(target, as_json)


def verify(
    folder: Folder,
    quick: Annotated[bool, typer.Option("--quick", help="Check the hashes only; decode no video.")] = False,
) -> None:
    """Check every episode: hash, then decode every frame. Exits with 1 if one is damaged; prints a JSON summary."""
    from data_collection.storage import index  # noqa: PLC0415
    from data_collection.storage import verify as verification  # noqa: PLC0415

    result = verification.VerificationResult()
    with ProgressBar("episodes verified", len(index.episodes(_folder(folder))), transient=True) as bar:
        for _ in verification.verify(folder, not quick, result):
            bar.advance()
    print_result(asdict(result))
    if not result.is_clean:
        names = ", ".join([*result.damaged, *(f"number {number} twice" for number in result.twice)][:5])
        raise VerificationError(
            f"{folder}: failed verification: {names}; move files aside with run_data quarantine to free their numbers"
        )


def quarantine(
    folder: Folder,
    numbers: Annotated[list[int], typer.Argument(min=0, help="Numbers of the episodes.")],
    reason: Annotated[str, typer.Option(help="Name of the quarantine folder: letters, digits and _.")] = "by_hand",
    as_json: AsJson = False,
) -> None:
    """Move episodes to quarantine: training skips them, and `run_collection --resume` collects replacements.

    Prints the new name of each file.
    """
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
        raise EpisodeError(f"{folder}: no episodes have the numbers {missing}; nothing was moved")
    moved: list[str] = []
    for number in sorted(set(numbers)):
        to = set_aside(paths[number], reason)
        details: dict[str, Value] = {"number": number, "kind": reason, "reason": "moved by run_data quarantine"}
        Journal(folder).note("quarantined", {**details, "file": str(to.relative_to(folder))})
        moved.append(str(to))
    if as_json:
        print_result({"moved": moved})
    else:
        print("\n".join(moved))


def reindex(folder: Folder) -> None:
    """Rebuild the index from the episode files. Exits with 1 if one is damaged; prints a JSON summary."""
    from data_collection.storage import index  # noqa: PLC0415
    from data_collection.storage import verify as verification  # noqa: PLC0415
    from data_collection.storage.folder import EpisodeFolder  # noqa: PLC0415

    if not index.episodes(_folder(folder)):
        raise EpisodeError(f"{folder}: expected a folder of episodes, got none")
    with EpisodeFolder(folder, "").lock(exclusive=True, timeout_s=1.0):
        result = verification.VerificationResult()
        with ProgressBar("episodes read", len(index.episodes(folder)), transient=True) as bar:
            for _ in verification.verify(folder, False, result):
                bar.advance()
        intact = [path for path in index.episodes(folder) if path.name not in result.damaged]
        index.write(folder, map(index.describe, intact))
    print_result({"folder": str(folder), "episodes": len(intact), "damaged": result.damaged})
    if result.damaged:
        raise VerificationError(f"{folder}: damaged and not indexed: {', '.join([*result.damaged][:5])}")


def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="New folder.", show_default=False)],
    to: Annotated[Literal["lerobot", "webdataset"], typer.Option(help="LeRobotDataset v3.0 or WebDataset shards.")],
    task: Annotated[str | None, typer.Option(help="LeRobot only: task description (default: play).")] = None,
) -> None:
    """Export the episodes as a dataset for another library. The folder appears once it is complete.

    Prints a JSON summary.
    """
    refuse_unused({"--task": task is not None and to != "lerobot"}, f"with --to {to}")
    from data_collection.storage import index  # noqa: PLC0415

    by_number = sorted(index.read(_folder(folder)), key=lambda row: row.number)
    paths = [folder / row.file for row in by_number]
    with ProgressBar("episodes exported", len(paths), transient=True) as bar:
        if to == "lerobot":
            from data_collection.export.lerobot import export_lerobot  # noqa: PLC0415 - needs pyarrow

            n = export_lerobot(paths, out, task=_TASK if task is None else task, on_episode=bar.advance)
        else:
            from data_collection.export.webdataset import export_shards  # noqa: PLC0415

            n = export_shards(paths, out, on_episode=bar.advance)
    n_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print_result({"folder": str(out), "episodes": n, "bytes": n_bytes})


def page(  # noqa: PLR0917 - the parameters are the options of the command line
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="File to write; default: next to the folder.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="Number of randomly drawn episodes to show.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random choice.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no page of this command.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an HTML report: statistics, progress, motion, and example episodes. Prints its name.

    An earlier page of this command is replaced.
    """
    _folder(folder)
    with announce("loading libraries"):
        from data_collection.reports.collection_report import collection_report, is_collection_report  # noqa: PLC0415

    target = out or folder.resolve().with_name(f"{folder.resolve().name}.html")
    if not force and target.exists() and not is_collection_report(target):
        raise EpisodeError(
            f"{target}: exists already and is no page of run_data; choose another --out, or replace it by --force"
        )
    _check_parent(target)
    with announce("reading the episodes and drawing the page"):
        text = collection_report(folder, shown, seed)
    write_file(target, text)
    _print_file(target, as_json)


def status(
    folder: Folder,
    max_age_s: Annotated[float, typer.Option(min=1, help="Maximum age of the status of a healthy run.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Print the last status of the run in a folder. Exits with 1 if the run stopped before its target."""
    from data_collection.collection.status import describe_status, read_status  # noqa: PLC0415
    from data_collection.storage.journal import DONE, read, summarize  # noqa: PLC0415

    last, history = read_status(_folder(folder)), summarize(read(folder))
    age_s = time.time() - last["time_s"]
    more = {
        "age_s": round(age_s, 1),
        "runs": history.runs,
        "interventions_per_day": round(history.interventions_per_day, 2),
        "dropped_in_all_runs": dict(history.dropped),
        "quarantined_in_all_runs": dict(history.quarantined),
        "lost_in_all_runs": history.lost,
    }
    if as_json:
        print_result({**last, **more})
    else:
        for name, text in describe_status({**last, **more}):
            print(f"{name:<14}{text}")
    if last.get("ended") is None and age_s > max_age_s:
        raise VerificationError(
            f"{folder}: no status from the run for {duration(age_s)}; continue it with run_collection --resume"
        )
    if last.get("ended") not in {None, DONE}:
        raise VerificationError(f"{folder}: the run ended before its target: {last['ended']}")


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise EpisodeError(f"{folder}: expected a collection folder, got none")
    return folder


def _check_free(path: Path) -> None:
    if path.exists():
        raise EpisodeError(f"{path}: exists already; choose another with --out")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    if not path.parent.is_dir():
        raise EpisodeError(f"{path}: its folder does not exist; choose another with --out")


def _print_file(path: Path, as_json: bool) -> None:
    if as_json:
        print_result({"file": str(path)})
    else:
        print(path)


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
    run(WORDS, "List, verify, export and report the episodes of a collection.")


if __name__ == "__main__":
    main()
