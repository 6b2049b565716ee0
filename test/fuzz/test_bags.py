# SPDX-License-Identifier: Apache-2.0
"""Bags that are cut off or have bits flipped, of either storage, and index caches that are."""

import shutil

import pytest
from support.fuzzing import BYTE_CHANGES, change_bytes, fuzz, guarded
from support.robot_bags import RobotBag

from gaussianocc_core.bags.check import read_metadata
from gaussianocc_core.bags.index_cache import cache_path
from gaussianocc_core.bags.indexing import find_bags, open_index
from gaussianocc_core.bags.reader import open_reader
from gaussianocc_core.data.bag import BagSource
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.errors import GaussianOccError


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    return {storage: RobotBag(frames=3).write(folder / storage, storage) for storage in ("mcap", "sqlite3")}


def read_all(path, cache=False):
    open_reader.cache_clear()
    for bag in find_bags(path):
        source = BagSource(open_index(bag, cache=cache), BagConfig(path=str(bag)))
        for entry in source.entries(semantics=False):
            entry.load()


def run(bags, tmp_path_factory, storage, which, changes):
    folder = tmp_path_factory.mktemp("one")
    bag = folder / "bag"
    shutil.copytree(bags[storage], bag)
    target = next(path for path in sorted(bag.iterdir()) if (path.suffix == ".yaml") == (which == "metadata"))
    target.write_bytes(change_bytes(target.read_bytes(), changes))
    with guarded(f"bag {storage} {which}", GaussianOccError):
        read_all(bag)
    with guarded(f"metadata {storage} {which}", GaussianOccError):
        read_metadata(bag)
    open_reader.cache_clear()
    assert sorted(path.name for path in folder.iterdir()) == ["bag"]
    shutil.rmtree(folder)


def add_tests(examples):
    @pytest.mark.parametrize("which", ["messages", "metadata"])
    @pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
    @fuzz(examples, changes=BYTE_CHANGES)
    def test(bags, tmp_path_factory, storage, which, changes):
        run(bags, tmp_path_factory, storage, which, changes)

    return test


test_damaged_bags_are_read_as_far_as_they_go = add_tests(5)
test_two_hundred_damaged_bags_of_each_storage = pytest.mark.slow(add_tests(200))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_whole_bag_is_read(bags, storage):
    read_all(bags[storage])


@pytest.mark.slow
@fuzz(300, changes=BYTE_CHANGES)
def test_damaged_index_caches_are_made_anew(bags, tmp_path_factory, changes):
    bag = tmp_path_factory.mktemp("one") / "bag"
    shutil.copytree(bags["mcap"], bag)
    open_index(bag)
    cache = cache_path(bag)
    cache.write_bytes(change_bytes(cache.read_bytes(), changes))
    with guarded("index cache", GaussianOccError):
        read_all(bag, cache=True)
    shutil.rmtree(bag)
