"""Read an exported dataset with LeRobot itself, and compare every frame with those of this project's reader.

It needs a separate environment, as LeRobot pins torch and other packages. `test_lerobot.py` runs
it with the interpreter that the variable LEROBOT_PYTHON names. Such an environment, with Python 3.11 and FFmpeg's
libraries (`apt-get install ffmpeg`), which torchcodec loads:

    python3.11 -m venv lerobot_env
    lerobot_env/bin/pip install lerobot==0.4.4

and with Python 3.12 `lerobot[dataset]==0.6.1`. Both pin torch; with another torch, install only the parts that read:

    lerobot_env/bin/pip install torch==2.14.1 torchvision==0.29.1 torchcodec==0.17.0
    lerobot_env/bin/pip install "datasets>=4,<5" "pandas<3" jsonlines "huggingface-hub>=0.34.2,<0.36" "av>=15,<16" \
        einops packaging termcolor draccus==0.10.0 deepdiff psutil safetensors
    lerobot_env/bin/pip install --no-deps lerobot==0.4.4 accelerate

(0.6.1: "huggingface-hub>=1.6,<2" and draccus==0.11.6, and with --no-deps gymnasium, cloudpickle and
farama-notifications in place of accelerate.)

Usage: lerobot_reader.py DATASET EXPECTED.npz LIMIT, where EXPECTED has the arrays `states_0`, `actions_0`,
`commanded_0`, `times_s_0` and `frames_CAMERA_0` of episode 0, and so on, and no value of an image may differ by more
than LIMIT of 255. It prints one JSON object, or fails.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.lerobot_dataset import LeRobotDataset

try:
    from lerobot.utils.feature_utils import dataset_to_policy_features
except ImportError:  # before 0.6
    from lerobot.datasets.utils import dataset_to_policy_features

NAMES = {"observation.state": "states", "action": "actions", "commanded_action": "commanded"}


def _expect(is_so: object, message: str) -> None:
    if not is_so:
        raise SystemExit(f"lerobot_reader: {message}")


def check_frames(dataset: Any, expected: Any, cameras: list[str]) -> dict[str, float]:
    """Compare every frame, in an order that requires a seek for each one."""
    worst, total, began = 0, 0.0, time.perf_counter()
    for index in np.random.default_rng(0).permutation(len(dataset)).tolist():
        item = dataset[index]
        episode, t = item["episode_index"].item(), item["frame_index"].item()
        for feature, name in NAMES.items():
            value = expected[f"{name}_{episode}"][t].astype(np.float32)
            _expect(np.array_equal(item[feature].numpy(), value), f"{feature} of frame {t} of episode {episode}")
        times_s = expected[f"times_s_{episode}"]
        _expect(item["time_s"].item() == np.float32(times_s[t] - times_s[0]), f"time_s of frame {t}")
        _expect(item["index"].item() == index, f"index {index}")
        for camera, key in enumerate(cameras):
            image = np.rint(item[key].numpy().transpose(1, 2, 0) * 255).astype(int)
            film = expected[f"frames_{camera}_{episode}"]
            difference = np.abs(image - film[t])
            worst, total = max(worst, int(difference.max())), total + difference.mean()
            others = [np.abs(image - film[other]).mean() for other in (t - 1, t + 1) if other >= 0]
            _expect(difference.mean() <= min(others), f"{key}: frame {t} of episode {episode} is another one")
    frames = len(dataset) * len(cameras)
    return {
        "max_image_difference": worst,
        "mean_image_difference": round(total / frames, 4),
        "frames_per_s": round(frames / (time.perf_counter() - began)),
    }


def check_windows(root: Path, expected: Any, key: str, limit: int) -> int:
    """Compare the inputs of policies: two images and the next four actions."""
    fps = LeRobotDataset("local/exported", root=root).meta.fps
    window = {key: [-1 / fps, 0.0], "action": [i / fps for i in range(4)]}
    dataset = LeRobotDataset("local/exported", root=root, delta_timestamps=window)
    for index in range(0, len(dataset), 7):
        item = dataset[index]
        episode, t = item["episode_index"].item(), item["frame_index"].item()
        actions = expected[f"actions_{episode}"]
        value = actions[np.minimum(np.arange(t, t + 4), len(actions) - 1)]
        _expect(np.array_equal(item["action"].numpy(), value), f"window of actions at {index}")
        padded = np.arange(t, t + 4) >= len(actions)
        _expect(np.array_equal(item["action_is_pad"].numpy(), padded), f"padding at {index}")
        image = item[key][0].numpy().transpose(1, 2, 0) * 255
        film = expected[f"frames_0_{episode}"]
        _expect(np.abs(image - film[max(t - 1, 0)]).max() <= limit + 1, f"the image before {index}")
    return len(range(0, len(dataset), 7))


def check_stats(root: Path, dataset: Any) -> None:
    """Aggregate the statistics of the episodes with LeRobot, and compare with those of the dataset."""
    stats: list[dict[str, Any]] = []
    for path in sorted((root / "meta/episodes").rglob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            stats.append({})
            for name in filter(lambda name: name.startswith("stats/"), row):
                _, feature, part = name.split("/")
                stats[-1].setdefault(feature, {})[part] = np.array(row[name])
    together = aggregate_stats(stats)
    _expect(set(together) == set(dataset.features), "expected a summary of every feature")
    for feature, parts in together.items():
        for part in ("min", "max", "mean", "std", "count"):
            close = np.allclose(parts[part], dataset.meta.stats[feature][part], rtol=1e-5, atol=1e-7)
            _expect(close, f"{part} of {feature}")


def main() -> None:
    root, expected, limit = Path(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
    dataset = LeRobotDataset("local/exported", root=root)
    cameras = sorted(key for key in dataset.features if key.startswith("observation.images."))
    episodes = sum(name.startswith("states_") for name in expected)
    _expect(cameras and dataset.num_episodes == episodes > 0, f"expected {episodes} episodes and a camera")
    lengths = [len(expected[f"actions_{episode}"]) for episode in range(episodes)]
    _expect(len(dataset) == sum(lengths), f"expected {sum(lengths)} frames, got {len(dataset)}")
    found = check_frames(dataset, expected, cameras)
    _expect(found["max_image_difference"] <= limit, f"images differ by {found['max_image_difference']}")
    windows = check_windows(root, expected, cameras[0], limit)
    check_stats(root, dataset)
    policy = dataset_to_policy_features(dataset.features)
    _expect(set(policy) == {*cameras, "observation.state", "action"}, f"features of policies: {sorted(policy)}")
    last = LeRobotDataset("local/exported", root=root, episodes=[episodes - 1])
    _expect(len(last) == lengths[-1], "the last episode alone")
    report = {
        "lerobot": importlib.metadata.version("lerobot"),
        "episodes": episodes,
        "frames": len(dataset),
        "cameras": len(cameras),
        "fps": dataset.meta.fps,
        "robot": dataset.meta.robot_type,
        "task": dataset[0]["task"],
        "windows": windows,
        **found,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
