"""Start from a checkpoint that was made for other data: weights are copied by name, and what differs is told.

Numbers of an action are matched by place: x, y, z and any further movements from the front, the gripper last. An action
of fewer than four numbers has no gripper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from configs.loader import Config
from ghvae_core.models.checkpoint import Checkpoint, build
from ghvae_core.models.checkpoint_files import CheckpointError
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig
from ghvae_core.models.svg import Svg, SvgConfig
from ghvae_core.models.video_model import VideoModel

# Settings that need no, or other, weights. All others are the sizes of the networks and must agree.
_FREE = {"image_px", "action_dim", "action_scale", "modules", "prior", "posterior_std", "n_context"}
_GROUP_PARTS = 3  # of a tensor's name, which say its module and network
_WITH_GRIPPER = 4  # numbers of the smallest action that ends with the gripper


class TransferReport(Config):
    """What became of every tensor when a model was started from another; names as in its state dictionary."""

    loaded: tuple[str, ...] = ()  # as they were
    adapted: dict[str, str] = Field(default_factory=dict)  # and how
    new: tuple[str, ...] = ()  # of this model alone: random, as in training from scratch
    unused: tuple[str, ...] = ()  # of the other alone: not used
    changed: dict[str, str] = Field(default_factory=dict)  # settings: what they were, and are

    def lines(self) -> list[str]:
        """Return the report in words, networks in place of the tensors where there is nothing more to say."""
        lines = [f"{name}: {change}" for name, change in self.changed.items()]
        for what, names in (("loaded", self.loaded), ("new", self.new), ("unused", self.unused)):
            if names:
                lines.append(f"{what}: {_grouped(names)}")
        return lines + [f"adapted: {name}: {how}" for name, how in self.adapted.items()]

    def provenance(self) -> dict[str, str]:
        """Return the report as entries of a checkpoint's provenance."""
        parts = {
            "changed": "; ".join(f"{name}: {change}" for name, change in self.changed.items()),
            "loaded": _grouped(self.loaded),
            "adapted": "; ".join(f"{name}: {how}" for name, how in self.adapted.items()),
            "new": _grouped(self.new),
            "unused": _grouped(self.unused),
        }
        return {f"init_{what}": text for what, text in parts.items() if text}


def adapt(
    start: Checkpoint, config: GhvaeConfig | SvgConfig, rng: np.random.Generator
) -> tuple[VideoModel, TransferReport]:
    """Return a model of a configuration that starts as a checkpoint's model, and what was done for it.

    Where the settings agree all weights are the checkpoint's, bit for bit. Where the data differ:

    - another action scale: the weights of the actions are scaled, so that the same movement has the same effect;
    - other numbers in an action: those that both have keep their weights, new ones start without effect;
    - actions that the checkpoint did not know at all: their network starts without effect;
    - another image size: convolutions are kept; 1x1 kernels become the middle of 3x3 ones, and the reverse;
    - more modules: new ones are random; fewer: the deepest are left;
    - a learned prior in place of a uniform one: random, as the checkpoint's was never trained.

    Args:
        start: Whose trained modules are used.
        config: With the new data's action scale.
        rng: Draws the weights that the checkpoint does not bring.

    Raises:
        CheckpointError: It is of another kind, or its networks have other sizes.
    """
    check_sizes(start, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**63)))
        model = build(config)
    theirs, ours = dict(_usable(start.model)), model.state_dict()
    adapted, loaded = {}, []
    for name in [name for name in ours if name in theirs]:
        value, how = _fitted(name, theirs[name], start.model, model)
        if value.shape != ours[name].shape:
            raise CheckpointError(f"--init: {name}: expected shape {tuple(ours[name].shape)}, got {tuple(value.shape)}")
        ours[name] = value
        if how:
            adapted[name] = how
        else:
            loaded.append(name)
    for name in _silenced(ours, theirs):
        ours[name] = torch.zeros_like(ours[name])
        adapted[name] = "new and 0: actions have no effect yet"
    model.load_state_dict(ours)
    return model, TransferReport(
        loaded=tuple(loaded),
        adapted=adapted,
        new=tuple(name for name in ours if name not in theirs and name not in adapted),
        unused=tuple(name for name in start.model.state_dict() if name not in ours or name not in theirs),
        changed=_changed(start.model, config),
    )


def check_sizes(start: Checkpoint, config: GhvaeConfig | SvgConfig) -> None:
    """Refuse a checkpoint whose networks are others than those of a configuration, whatever the data are.

    Raises:
        CheckpointError: It is of another kind, or its networks have other sizes; which, is said.
    """
    theirs, kind = start.model.config, start.info.model.kind
    if kind != config.kind:
        raise CheckpointError(f"--init: expected a model of kind {config.kind}, as --model says, got {kind}")
    pairs = {
        name: (getattr(theirs, name), getattr(config, name)) for name in type(config).model_fields if name not in _FREE
    }
    if isinstance(theirs, GhvaeConfig) and isinstance(config, GhvaeConfig):
        for k, (old, new) in enumerate(zip(theirs.modules, config.modules, strict=False), start=1):
            pairs |= {f"module {k}: {name}": (value, getattr(new, name)) for name, value in old}
    for name, (old, new) in pairs.items():
        if old != new:
            raise CheckpointError(
                f"--init: {name}: the checkpoint has {old}, this run {new}; weights of other sizes cannot be adapted, "
                "take the --model that it was trained with"
            )


def _usable(model: VideoModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that were trained: all, but a prior that was uniform in their place."""
    is_uniform = isinstance(model, Ghvae) and model.config.prior == "uniform"
    for name, tensor in model.state_dict().items():
        if not (is_uniform and ".prior." in name):
            yield name, tensor


def _fitted(name: str, tensor: Tensor, start: VideoModel, model: VideoModel) -> tuple[Tensor, str]:
    """Return a tensor as the new model needs it, and how it was changed; empty where it was not."""
    first = _first_action(name, model)
    if first is not None:
        return _with_actions(tensor, first, start, model)
    new_px = model.state_dict()[name].shape[2:]
    if tensor.dim() == 4 and tensor.shape[2:] != new_px:
        return (
            (_grown(tensor), "1x1 kernel put into the middle of a 3x3 one")
            if new_px == (3, 3)
            else (
                tensor[:, :, 1:2, 1:2].clone(),
                "the middle of a 3x3 kernel, which alone sees anything in a 1x1 image",
            )
        )
    return tensor.clone(), ""


def _first_action(name: str, model: VideoModel) -> int | None:
    """Return which input of a weight is the first number of an action; None where no action goes in."""
    if isinstance(model, Svg) and name in {"prior.embed.weight", "predictor.embed.weight"}:
        return model.config.features
    return 0 if name.endswith(".prior.body.action.0.weight") else None


def _with_actions(tensor: Tensor, first: int, start: VideoModel, model: VideoModel) -> tuple[Tensor, str]:
    """Return a weight (outputs, inputs, ...) for other actions."""
    old, new = start.config, model.config
    if (old.action_dim, old.action_scale) == (new.action_dim, new.action_scale):
        return tensor.clone(), ""
    places = _matched(old.action_dim, new.action_dim)
    columns = []
    for place, scale in zip(places, new.action_scale, strict=True):
        if place is None:
            columns.append(torch.zeros_like(tensor[:, 0]))
        else:  # the networks see action / scale, so this gives the same movement the same effect
            columns.append(tensor[:, first + place] * (scale / old.action_scale[place]))
    end = first + old.action_dim
    value = torch.cat([tensor[:, :first], *[column[:, None] for column in columns], tensor[:, end:]], 1)
    kept = [f"{place + 1}->{i + 1}" for i, place in enumerate(places) if place is not None]
    fresh = [str(i + 1) for i, place in enumerate(places) if place is None]
    how = f"action numbers {', '.join(kept) or 'none'} kept" + (f", {', '.join(fresh)} new and 0" if fresh else "")
    if places == list(range(old.action_dim)):
        how = "scaled to the new action_scale"
    return value, how


def _matched(n_old: int, n_new: int) -> list[int | None]:
    """Return for each number of the new actions which one of the old it is; None where it is none."""
    n_old_moves, n_new_moves = n_old - (n_old >= _WITH_GRIPPER), n_new - (n_new >= _WITH_GRIPPER)
    places: list[int | None] = [place if place < n_old_moves else None for place in range(n_new_moves)]
    if n_new >= _WITH_GRIPPER:
        places.append(n_old - 1 if n_old >= _WITH_GRIPPER else None)
    return places


def _grown(tensor: Tensor) -> Tensor:
    return torch.nn.functional.pad(tensor, (1, 1, 1, 1))


def _silenced(ours: Iterable[str], theirs: Iterable[str]) -> list[str]:
    """Return the last layers of action networks that are new in a prior that is not."""
    known = set(theirs)
    ends = (".action.2.weight", ".action.2.bias")
    return [
        name
        for name in ours
        if name.endswith(ends) and name not in known and f"{name.partition('.action.')[0]}.embed.weight" in known
    ]


def _changed(start: VideoModel, config: GhvaeConfig | SvgConfig) -> dict[str, str]:
    theirs = start.config
    pairs = {
        name: (getattr(theirs, name), getattr(config, name)) for name in type(config).model_fields if name in _FREE
    }
    pairs.pop("modules", None)
    pairs["modules"] = (theirs.n_modules, config.n_modules)
    return {name: f"was {old}, is {new}" for name, (old, new) in pairs.items() if old != new}


def _grouped(names: Iterable[str]) -> str:
    counts = Counter(".".join(name.split(".")[:_GROUP_PARTS]) for name in names)
    return ", ".join(f"{group} ({count})" for group, count in counts.items())
