"""The configuration of a collection: a folder made with the former names of its keys can be continued."""

from pathlib import Path

import pytest

from data_collection.collection.config import CollectionRunConfig
from data_collection.episode import EpisodeError
from data_collection.storage.folder import CONFIG_NAME, EpisodeFolder

FORMER = {  # present key: former key; indented as stored
    "  table_reset:": "  tidying:",
    "    idle_episodes_before_reset:": "    dull_after:",
    "    idle_motion_m:": "    dull_m:",
    "    middle_fraction:": "    middle_share:",
    "    max_objects:": "    most_objects:",
    "    push_height_m:": "    push_m:",
    "  episode_filter:": "  gate:",
    "    off_command_fraction:": "    off_command_share:",
    "    shortest_step_fraction:": "    shortest_step_share:",
    "    noise_fraction:": "    noise_share:",
    "    carry_fraction:": "    carry_share:",
    "    push_fraction:": "    push_share:",
    "    drag_fraction:": "    drag_share:",
    "    primitives:": "    directed:",
    "      use_fraction:": "      use_share:",
    "      push_to_fraction:": "      shove_share:",
    "      one_target_fraction:": "      one_target_share:",
    "      behind_tool_fraction:": "      behind_tool_share:",
    "    object_detection:": "    blobs:",
    "  max_memory_gib:": "  memory_gib:",
    "  max_open_files:": "  descriptors:",
    "  max_age_s:": "  renew_after_s:",
    "  notify_command:": "  alert:",
}


def test_a_collection_with_former_keys_can_be_continued(tmp_path: Path) -> None:
    folder = EpisodeFolder(tmp_path, "lab_franka_play")
    config = CollectionRunConfig.load(3, ["robot.renderer=ray"])
    folder.store_config(config)
    (tmp_path / "lab_franka_play_traj0.hdf5").touch()
    stored = tmp_path / CONFIG_NAME
    text = stored.read_text()
    for present, former in FORMER.items():
        assert text.count(f"\n{present}") == 1, present
        text = text.replace(f"\n{present}", f"\n{former}")
    stored.write_text(text)
    folder.store_config(config)
    other = CollectionRunConfig.load(3, ["robot.renderer=ray", "collection.table_reset.max_objects=1"])
    with pytest.raises(EpisodeError, match=r"'collection\.table_reset\.max_objects: 5' is now"):
        folder.store_config(other)
    assert stored.read_text() == text
