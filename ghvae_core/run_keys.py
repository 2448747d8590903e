"""Keys for a server that other machines reach: make them, let machines in, shut them out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.command import run
from ghvae_core.serving import auth

_Folder = Annotated[Path, typer.Argument(help="of this machine's keys")]


def new(
    folder: _Folder, name: Annotated[str, typer.Option(help="by which others know this machine; server for a server")]
) -> None:
    """Make the pair of keys of this machine, once. The secret half never leaves it."""
    public = auth.create(folder, name)
    if name == auth.SERVER:
        print(f"copy {public} into the keys' folder of each planner, and let them in: run_keys allow {folder} NAME.key")
    else:
        print(
            f"give {public} to the server (run_keys allow FOLDER {public.name}), and copy its server.key into {folder}"
        )


def allow(folder: _Folder, public: Annotated[Path, typer.Argument(help="NAME.key of the machine to let in")]) -> None:
    """Let a machine in; a running server knows at once."""
    print(f"{auth.allow(folder, public)} is let in")


def revoke(folder: _Folder, name: Annotated[str, typer.Argument(help="of the machine to shut out")]) -> None:
    """Shut a machine out; a running server hears nothing more of it, not even on a connection that stands."""
    auth.revoke(folder, name)
    print(f"{name} is shut out")


def list_(folder: _Folder) -> None:
    """Print who is let in, a line each: the name and the public key."""
    auth.load_own_pair(folder)
    for key, name in auth.load_allowed(folder).items():
        print(f"{name}\t{key.decode('ascii', 'replace')}")


WORDS: Mapping[str, Callable[..., None]] = {"new": new, "allow": allow, "revoke": revoke, "list": list_}


def main() -> NoReturn:
    """Run the command."""
    run(WORDS, "Keys (CURVE) by which a server and the machines of its planners know each other.")


if __name__ == "__main__":
    main()
