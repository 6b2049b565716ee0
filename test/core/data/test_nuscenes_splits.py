# SPDX-License-Identifier: Apache-2.0
import logging

import pytest
from support.nuscenes_fixtures import MadeUpDatabase, read_table, real_keyframes, token

from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.nuscenes_splits import select_scenes
from gaussianocc_core.errors import DatasetError

# Official ones: 0061 is of train and mini_train, 0103 of val and mini_val, 0077 of test.
SCENES = ("scene-0103", "scene-0061", "scene-9000", "scene-0077", "scene-0553")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    database = MadeUpDatabase(scenes=SCENES, keyframes=1, frames_per_keyframe=1, points=1, occupancy=False)
    return NuScenesSource(database.write(tmp_path_factory.mktemp("nuscenes") / "db"))


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", {"scene-0061", "scene-0553"} - {"scene-0553"}),
        ("val", {"scene-0103", "scene-0553"}),
        ("mini_train", {"scene-0061", "scene-0553"}),
        ("mini_val", {"scene-0103"}),
        ("test", {"scene-0077"}),
    ],
)
def test_an_official_split_is_what_the_version_holds_of_it(source, split, expected):
    assert set(select_scenes(source, split=split)) == expected


def test_without_a_choice_it_is_every_scene_and_names_are_taken_once(source):
    assert set(select_scenes(source)) == set(SCENES)
    assert select_scenes(source, ["scene-0077", "scene-0061", "scene-0077"]) == ("scene-0077", "scene-0061")


def test_a_file_of_names_keeps_its_order(source, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# mine\nscene-9000\n\n  scene-0103  # the bend\nscene-9000\n")
    assert select_scenes(source, split=str(path)) == ("scene-9000", "scene-0103")


def test_a_file_of_tokens_means_the_scenes_of_those_samples(source, tmp_path, caplog):
    path = tmp_path / "tokens.txt"
    tokens = [token("scene-0553", "sample", 0), "0" * 32, token("scene-0061", "sample", 0)]
    path.write_text("\n".join(tokens))
    with caplog.at_level(logging.WARNING):
        assert select_scenes(source, split=str(path)) == ("scene-0553", "scene-0061")
    assert "1 of its 3 sample tokens are not in v1.0-mini" in caplog.text


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("scene-0061\nscene-061\n", "line 2: scene 'scene-061' is not in .*did you mean scene-0061"),
        ("0" * 32, "none of its 1 sample tokens is in v1.0-mini"),
        ("# nothing\n", "it is empty"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_a_list_that_does_not_fit_is_one_line_with_its_place(source, tmp_path, content, complaint):
    path = tmp_path / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=complaint) as caught:
        select_scenes(source, split=str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_neither_split_nor_file_is_explained(source):
    with pytest.raises(DatasetError, match="neither one of train, val, .* did you mean mini_val"):
        select_scenes(source, split="minival")


def test_a_split_without_a_scene_in_the_version_says_which_there_are(tmp_path):
    database = MadeUpDatabase(scenes=("scene-0061",), keyframes=1, frames_per_keyframe=1, points=1)
    source = NuScenesSource(database.write(tmp_path / "db"))
    with pytest.raises(DatasetError, match="split test has no scene in v1.0-mini .* train .1 scenes., mini_train"):
        select_scenes(source, split="test")


def test_the_published_list_is_read_and_a_list_of_real_tokens_finds_its_scene(shared_data, tmp_path):
    source = NuScenesSource(real_keyframes(shared_data))
    published = shared_data / "data" / "gaussianocc_splits_masks" / "nusc" / "val.txt"
    with pytest.raises(DatasetError, match="none of its 6019 sample tokens"):
        select_scenes(source, split=str(published))
    path = tmp_path / "tokens.txt"
    path.write_text(published.read_text() + read_table(source.dataroot, "sample")[3]["token"] + "\n")
    assert select_scenes(source, split=str(path)) == ("scene-0061",)
