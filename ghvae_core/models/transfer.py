"""Initialization from a checkpoint of other data: weights are copied by name, and differences are reported.

Numbers of an action are matched by position: first x, y, z and further movements, the gripper last. An action of fewer
than four numbers has no gripper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from configs.loader import Config
from ghvae_core.models.checkpoint import AnyConfig, Checkpoint, build
from ghvae_core.models.checkpoint_files import CheckpointError
from ghvae_core.models.ghvae import Ghvae, GhvaeConfig
from ghvae_core.models.svg import Svg
from ghvae_core.models.video_model import VideoModel

# Settings that may differ. All others are sizes of the networks and must be equal.
_FREE = {
    "image_px",
    "action_dim",
    "action_scale",
    "modules",
    "prior",
    "posterior_std",
    "n_context",
    "copies",
    "mask_threshold",
    "prior_frames",
}
_GROUP_PARTS = 3  # of a tensor's name, which identify its module and network
_WITH_GRIPPER = 4  # length of the shortest action with a gripper
_PIXELS = "levels.0.pixels."  # the last layer of decoder 1: colours, then the masks of copied frames
_DRAWN_BIAS = 4.0  # of new masks: 96 % of each pixel are drawn, as before; ours


class TransferReport(Config):
    """Origin of every tensor of a model that was initialized from another one; names as in its state dictionary."""

    loaded: tuple[str, ...] = ()  # unchanged
    adapted: dict[str, str] = Field(default_factory=dict)  # name to change
    new: tuple[str, ...] = ()  # only in this model: random, as in training from scratch
    unused: tuple[str, ...] = ()  # only in the other model
    changed: dict[str, str] = Field(default_factory=dict)  # settings: old and new values

    def lines(self) -> list[str]:
        """Return the report as lines of text; unchanged tensors are grouped by network."""
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


def adapt(start: Checkpoint, config: AnyConfig, rng: np.random.Generator) -> tuple[VideoModel, TransferReport]:
    """Return a model of a configuration, initialized from a checkpoint, and a report.

    With equal settings all weights are those of the checkpoint. Differences:

    - action scale: the weights of the actions are scaled, so that the same movement has the same effect;
    - numbers of an action: common ones keep their weights, new ones start without effect;
    - actions, or sums of actions, where the checkpoint has none: their network starts without effect;
    - context frames of a Hier-VRNN: the latest keep their weights, further ones start without effect;
    - copies: new masks draw nearly every pixel, as before; masks without a use are left out;
    - image size: convolutions are kept; 1x1 kernels become the middle of 3x3 kernels, and vice versa;
    - more modules: new ones are random; fewer: the deepest are not used;
    - a learned prior instead of a uniform one: random, as that of the checkpoint is untrained.

    Args:
        start: Its trained modules are used.
        config: Of the new model, with the action scale of the new data.
        rng: Draws the weights that are not in the checkpoint.

    Raises:
        CheckpointError: The model is of another kind, or its networks have other sizes.
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
    for name in _zeroed(ours, theirs):
        ours[name] = torch.zeros_like(ours[name])
        adapted[name] = "new and 0: no effect yet"
    model.load_state_dict(ours)
    return model, TransferReport(
        loaded=tuple(loaded),
        adapted=adapted,
        new=tuple(name for name in ours if name not in theirs and name not in adapted),
        unused=tuple(name for name in start.model.state_dict() if name not in ours or name not in theirs),
        changed=_changed(start.model, config),
    )


def check_sizes(start: Checkpoint, config: AnyConfig) -> None:
    """Refuse a checkpoint whose networks differ from those of a configuration.

    Raises:
        CheckpointError: The model is of another kind, or its networks have other sizes; the message names the setting.
    """
    theirs, kind = start.model.config, start.info.model.kind
    if kind != config.kind:
        raise CheckpointError(f"--init: expected a model of kind {config.kind}, as --model requires, got {kind}")
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
                "use the --model that it was trained with"
            )


def _usable(model: VideoModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the trained tensors: all except the unused prior networks of a uniform prior."""
    is_uniform = isinstance(model, Ghvae) and model.config.prior == "uniform"
    for name, tensor in model.state_dict().items():
        if not (is_uniform and ".prior." in name):
            yield name, tensor


def _fitted(name: str, tensor: Tensor, start: VideoModel, model: VideoModel) -> tuple[Tensor, str]:
    """Return a tensor for the new model, and a description of its change; empty if unchanged."""
    if name.startswith(_PIXELS) and isinstance(model, Ghvae):
        return _with_copies(tensor, model.state_dict()[name])
    first = _first_action(name, model)
    if first is not None:
        return _with_actions(tensor, first, start, model)
    if name.endswith(".context.weight"):
        return _with_context(tensor, model.state_dict()[name])
    new_px = model.state_dict()[name].shape[2:]
    if tensor.dim() == 4 and tensor.shape[2:] != new_px:
        return (
            (_grown(tensor), "1x1 kernel placed in the middle of a 3x3 kernel")
            if new_px == (3, 3)
            else (
                tensor[:, :, 1:2, 1:2].clone(),
                "middle of a 3x3 kernel, the only part used on a 1x1 image",
            )
        )
    return tensor.clone(), ""


def _with_copies(tensor: Tensor, like: Tensor) -> tuple[Tensor, str]:
    """Return a weight or bias (outputs, ...) of decoder 1's last layer for another number of copied frames."""
    if len(tensor) >= len(like):
        return tensor[: len(like)].clone(), "masks of copied frames left out" if len(tensor) > len(like) else ""
    value = torch.cat([tensor, torch.zeros_like(like[len(tensor) :])])
    if value.dim() == 1:
        value[len(tensor)] = _DRAWN_BIAS
    return value, "new masks draw every pixel"


def _with_context(tensor: Tensor, like: Tensor) -> tuple[Tensor, str]:
    """Return a weight (outputs, inputs, ...) of a network of all context frames, oldest first, for another number."""
    n_new = like.shape[1] - tensor.shape[1]
    if n_new <= 0:
        return tensor[:, -n_new:].clone(), "weights of earlier context frames left out" if n_new else ""
    return torch.cat([torch.zeros_like(like[:, :n_new]), tensor], 1), "earlier context frames have no effect yet"


def _first_action(name: str, model: VideoModel) -> int | None:
    """Return the input index of the first number of an action; None if the weight takes no action."""
    if isinstance(model, Svg) and name in {"prior.embed.weight", "predictor.embed.weight"}:
        return model.config.features
    return 0 if name.endswith((".action.0.weight", ".action_sum.0.weight")) else None


def _with_actions(tensor: Tensor, first: int, start: VideoModel, model: VideoModel) -> tuple[Tensor, str]:
    """Return a weight (outputs, inputs, ...) adapted to other actions, and a description of the change."""
    old, new = start.config, model.config
    if (old.action_dim, old.action_scale) == (new.action_dim, new.action_scale):
        return tensor.clone(), ""
    places = _matched(old.action_dim, new.action_dim)
    columns = []
    for place, scale in zip(places, new.action_scale, strict=True):
        if place is None:
            columns.append(torch.zeros_like(tensor[:, 0]))
        else:  # networks get action / scale: the same movement has the same effect
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
    """Return for each number of the new actions its index in the old ones; None if new."""
    n_old_moves, n_new_moves = n_old - (n_old >= _WITH_GRIPPER), n_new - (n_new >= _WITH_GRIPPER)
    places: list[int | None] = [place if place < n_old_moves else None for place in range(n_new_moves)]
    if n_new >= _WITH_GRIPPER:
        places.append(n_old - 1 if n_old >= _WITH_GRIPPER else None)
    return places


def _grown(tensor: Tensor) -> Tensor:
    return torch.nn.functional.pad(tensor, (1, 1, 1, 1))


def _zeroed(ours: Iterable[str], theirs: Iterable[str]) -> list[str]:
    """Return the last layers of new action networks beside networks that are not new."""
    known = set(theirs)
    ends = (".action.2.weight", ".action.2.bias", ".action_sum.2.weight", ".action_sum.2.bias")
    return [
        name
        for name in ours
        if name.endswith(ends) and name not in known and f"{name.partition('.action')[0]}.embed.weight" in known
    ]


def _changed(start: VideoModel, config: AnyConfig) -> dict[str, str]:
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
