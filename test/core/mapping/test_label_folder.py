# SPDX-License-Identifier: Apache-2.0
"""The folder of carved labels: several jobs at once, and folders that came from somebody."""

import json
import os

import pytest

from gaussianocc_core.errors import ConfigError
from gaussianocc_core.mapping.label_files import INDEX, LabelFolder
from gaussianocc_core.types import VoxelGrid


def test_jobs_that_begin_at_once_share_a_folder_and_those_of_other_settings_do_not(tmp_path):
    """All of them find it empty; the first to save it says what labels it holds."""
    first, second, other = (LabelFolder(tmp_path / "labels", VoxelGrid(), {"depth": name}) for name in "AAB")
    for folder, scene in ((first, "one"), (second, "two")):
        folder.scenes[scene] = {}
        folder.save()
    with pytest.raises(ConfigError, match="made with another 'depth'"):
        other.save()
    index = json.loads((tmp_path / "labels" / INDEX).read_text())
    assert sorted(index["scenes"]) == ["one", "two"] and index["depth"] == "A"


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
def test_what_stands_in_the_place_of_the_lock_is_neither_followed_nor_waited_for(tmp_path, kind):
    LabelFolder(tmp_path / "labels", VoxelGrid(), {}).save()
    victim, lock = tmp_path / "victim", tmp_path / "labels" / ".carved.lock"
    lock.unlink()
    if kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.symlink_to(victim)
    if kind == "link":
        victim.write_text("mine")
    folder = LabelFolder(tmp_path / "labels", VoxelGrid(), {})
    if kind == "pipe":
        folder.save()
    else:
        with pytest.raises(ConfigError, match="cannot be locked"):
            folder.save()
    assert victim.exists() == (kind == "link") and (kind != "link" or victim.read_text() == "mine")
