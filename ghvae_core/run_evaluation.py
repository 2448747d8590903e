"""Judge checkpoints on held-out episodes, beside copying the last frame and following wrong actions."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from configs.command import run
from configs.interruption import interruption

_Part = Literal["held-out", "trained-on"]
SHIPPED = Path(__file__).parent / "checkpoints" / "tiny"


def evaluate(  # noqa: PLR0917 - the parameters are the options of the command line
    data: Annotated[Path, typer.Option(help="folder of episodes, of any format that is read")],
    checkpoint: Annotated[list[Path] | None, typer.Option(help="folder of a model; again for more")] = None,
    label: Annotated[list[str] | None, typer.Option(help="its name in the tables; again for each")] = None,
    depth: Annotated[list[int] | None, typer.Option(help="use the first so many modules; again for more rows")] = None,
    part: Annotated[_Part, typer.Option(help="trained-on: what training did not leave out")] = "held-out",
    windows: Annotated[int | None, typer.Option(help="how many windows; 256 without it, as in RoboNet's rows")] = None,
    samples: Annotated[int | None, typer.Option(help="drawn a window; from 2 on with a row of the best")] = None,
    sensitivity: Annotated[int, typer.Option(min=0, help="rank the true actions among so many others")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="draws the windows, their pairing and the sampled latents")] = 0,
    out: Annotated[Path | None, typer.Option(help="new folder for the report; without one nothing is written")] = None,
    lpips: Annotated[bool, typer.Option(help="measure LPIPS, whose weights are fetched once")] = True,
    lpips_weights: Annotated[Path | None, typer.Option(help="safetensors file of its weights, instead")] = None,
    fvd: Annotated[bool, typer.Option(help="measure FVD: a second a video and row on a CPU, so minutes")] = False,
    i3d_weights: Annotated[Path | None, typer.Option(help="safetensors file of its weights, instead")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="where the models run")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="evaluation.*")] = None,
) -> None:
    """Measure PSNR, SSIM, LPIPS and FVD of models' predicted frames on held-out windows.

    Rows of each model: the prior's mean, one sample, the best of `--samples` (for each window and metric by itself),
    the actions of another window; then a copy of the last context frame, and paired differences. Who does not beat
    copying, or does not care which actions it follows, cannot plan; `--sensitivity 100` ranks the executed actions.

    The tables go to standard error; the last line on standard output is one JSON object. With `--out` also a folder:
    Markdown, JSON with every window, curves, a filmstrip and GIFs. Episodes that a checkpoint says it was trained on
    are refused but with `--part trained-on`. Ctrl-C reports what was measured so far and exits with 130; refused input
    exits with 2 and nothing is written; a report that cannot be written exits with 1, after the line of JSON.
    """
    from ghvae_core.evaluation.clips import load_evaluation  # noqa: PLC0415 - torch would make --help slow
    from ghvae_core.evaluation.run import Inputs, run_inputs  # noqa: PLC0415

    inputs = Inputs(
        data=data,
        checkpoints=tuple(checkpoint or [SHIPPED]),
        labels=tuple(label or ()),
        depths=tuple(depth or ()),
        part=part,
        seed=seed,
        lpips=lpips,
        lpips_weights=lpips_weights,
        fvd=fvd,
        i3d_weights=i3d_weights,
        sensitivity=sensitivity,
        out=out,
        device=device,
    )
    config = load_evaluation(_overrides(set_ or [], windows, samples))
    with interruption((signal.SIGINT,)):
        run_inputs(inputs, config)


def _overrides(told: list[str], windows: int | None, samples: int | None) -> list[str]:
    options = {"n_windows": windows, "n_samples": samples}
    return [*told, *(f"evaluation.{name}={value}" for name, value in options.items() if value is not None)]


def main() -> NoReturn:
    """Run the command."""
    run(evaluate)


if __name__ == "__main__":
    main()
