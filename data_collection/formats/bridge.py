"""BridgeData in RLDS: one TFRecord record per episode; each feature holds all steps."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from data_collection.episode import Episode, EpisodeError
from data_collection.formats.hdf5 import naming
from data_collection.formats.tfrecord import Feature, find_records, parse_example, read_record

BRIDGE_ACTIONS = "BridgeData: x, y, z, roll, pitch, yaw and gripper, 1 opens"

_IMAGE, _ACTION, _STATE = "steps/observation/image", "steps/action", "steps/observation/state"
_MAX_PIXELS = 2**24  # of one image
_MAX_BYTES = 2**31  # of one view's decoded frames


def read_bridge(path: Path, index: int, camera: int = 0) -> Episode:
    """Read one episode of a TFRecord file.

    Args:
        path: The file.
        index: Of the record.
        camera: Of the features `steps/observation/image*`, by the order of their names.

    Raises:
        EpisodeError: Damaged, or without images and actions of equally many steps; the message names file and record.
    """
    offsets = find_records(path)
    if not 0 <= index < len(offsets):
        raise EpisodeError(f"{path}: expected a record from 0 to {len(offsets) - 1}, got {index}")
    with naming(path), naming(Path(f"record {index}")):
        try:
            data = read_record(path, offsets[index])
        except OSError as error:
            raise EpisodeError(f"could not be read: {error.strerror or error}") from None
        return _episode(parse_example(data), camera)


def _episode(features: Mapping[str, Feature], camera: int) -> Episode:
    """Return an episode: action t belongs to step t; the last one has no next frame."""
    views = sorted(name for name in features if name.startswith(_IMAGE))
    if not views:
        raise EpisodeError(f"expected features '{_IMAGE}*', got {', '.join(sorted(features)[:8]) or 'none'}")
    if not 0 <= camera < len(views):
        raise EpisodeError(f"expected a camera from 0 to {len(views) - 1}, got {camera}")
    images = features[views[camera]]
    if not isinstance(images, list):
        raise EpisodeError(f"'{views[camera]}': expected encoded images, got numbers")
    frames = _frames(images)
    if not np.ptp(frames):  # a missing camera is one colour; the flags has_image_* are not reliable
        raise EpisodeError(f"'{views[camera]}': expected camera images, got one colour; choose another camera")
    actions = _table(features, _ACTION, len(frames))[:-1].astype(np.float32)
    states = _table(features, _STATE, len(frames)) if _STATE in features else np.empty((len(frames), 0))
    times_s = np.arange(len(frames), dtype=np.float64)
    return Episode(frames, states, actions, actions.copy(), times_s, {"robot": "widowx"}, BRIDGE_ACTIONS)


def _table(features: Mapping[str, Feature], name: str, n_steps: int) -> NDArray[np.float64]:
    values = features.get(name)
    if not isinstance(values, np.ndarray):
        raise EpisodeError(f"'{name}': expected numbers, got {'none' if values is None else 'bytes'}")
    if len(values) % n_steps:
        raise EpisodeError(f"'{name}': expected as many numbers at each of {n_steps} steps, got {len(values)} in all")
    return values.astype(np.float64).reshape(n_steps, -1)


def _frames(images: list[bytes]) -> NDArray[np.uint8]:
    frames: list[NDArray[np.uint8]] = []
    for image in images:
        frames.append(_decode(image))
        if sum(frame.nbytes for frame in frames) > _MAX_BYTES:
            raise EpisodeError(f"expected at most {_MAX_BYTES} bytes of frames, got more")
    if not frames or len({frame.shape for frame in frames}) > 1:
        raise EpisodeError(f"expected images of one size, got {len(frames)} of {len({f.shape for f in frames})} sizes")
    return np.stack(frames)


def _decode(data: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise EpisodeError(f"expected an image of at most {_MAX_PIXELS} pixels, got {image.size}")
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:  # whose message differs each time
        raise EpisodeError("expected a JPEG or PNG image, got other bytes") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise EpisodeError(f"expected a JPEG or PNG image, got: {' '.join(str(error).split())[:100]}") from None
