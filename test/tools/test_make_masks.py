# SPDX-License-Identifier: Apache-2.0
"""tools/make_masks.py: robots pasted into moving worlds are found where they are, and nowhere else."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.robot_bags import RobotBag

from gaussianocc_core.data.bag import open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.rig_file import save_rig
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.onboarding.masks import LEAST_IMAGES, MaskConfig, find_robot, spread_moments
from gaussianocc_core.onboarding.moments import bag_moments
from gaussianocc_core.synthetic import default_rig
from gaussianocc_core.synthetic.writer import write_dataset

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("make_masks", ROOT / "tools/make_masks.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


def run(*arguments: object) -> int:
    return tool.main([str(argument) for argument in arguments])


def shapes(size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Where robots are seen, as shares of the image: (H, W) bool by name."""
    x, y = np.meshgrid((np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
    return {
        "none": np.zeros_like(x, dtype=bool),
        "bonnet": y > 0.85 - 0.08 * np.cos(3 * (x - 0.5)),
        "mirror": (x / 0.13) ** 2 + ((y - 0.55) / 0.17) ** 2 < 1,
        "mast": (y > 0.9) | (abs(x - 0.6) < 0.025),  # up into the sky, which does not change either
        "half": x > 0.55 - 0.1 * y,
    }


def surface(size: tuple[int, int]) -> np.ndarray:
    """What a robot is painted with: soft stains."""
    noise = np.random.default_rng(5).normal(110, 110, (size[1], size[0], 3)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 5)


def paste(image: np.ndarray, where: np.ndarray, number: int) -> np.ndarray:
    """The image with the robot in it: its light changes, the sensor is noisy, the edge is blurred."""
    light = 1 + 0.06 * np.sin(number / 4)
    noise = np.random.default_rng(number).normal(0, 2, image.shape)
    share = cv2.GaussianBlur(where.astype(np.float32), (0, 0), 0.7)[..., None]
    return (image * (1 - share) + surface(where.shape[::-1]) * light * share + noise).clip(0, 255).astype(np.uint8)


def overlap(mask: np.ndarray, where: np.ndarray) -> float:
    """Intersection over union of the masked pixels and the robot."""
    return float(((mask == 0) & where).sum() / ((mask == 0) | where).sum())


@dataclass
class Drive(RobotBag):
    """A robot that drives past a textured world: unchanging sky above, dull road below."""

    parts: dict[str, str] = field(default_factory=dict)  # camera -> name of its shape
    frames: int = 40
    size: tuple[int, int] = (160, 96)
    focal: float = 100.0
    period_ns: int = 500_000_000
    speed: float = 1.0  # m/s
    cameras: dict[str, float] = field(default_factory=lambda: {"front": 0.0, "left": 50.0, "right": -50.0})

    def picture(self, frame: int, camera: int) -> np.ndarray:
        width, height = self.size
        random = np.random.default_rng(camera)
        world = cv2.resize(random.integers(0, 255, (height // 6, 200), dtype=np.uint8), (1200, height))
        world = world[..., None].repeat(3, axis=2)
        place = round(17 * frame * self.speed) % (1200 - width)
        image = world[:, place : place + width].astype(np.float32)
        road = slice(round(0.65 * height), None)
        image[road] = 90 + 0.4 * (image[road] - 128)
        image[: round(0.3 * height)] = (140, 180, 230)
        name = list(self.cameras)[camera]
        return paste(image, shapes(self.size)[self.parts.get(name, "none")], frame)

    def T_odom_ego(self, stamp_ns: int) -> np.ndarray:
        return make_transform(np.eye(3), self.speed * super().T_odom_ego(stamp_ns)[:3, 3])


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drive")
    parts = {"front": "bonnet", "left": "mast"}
    Drive(parts=parts).write(folder / "bag")
    return folder / "bag", parts


def test_robots_are_found_where_they_are_and_only_there(drive, tmp_path):
    bag, parts = drive
    assert run("--bag", bag, "--output", tmp_path / "masks") == 0
    for camera in ("front", "left", "right"):
        mask = cv2.imread(str(tmp_path / "masks" / f"{camera}_mask.png"), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (96, 160) and set(np.unique(mask)) <= {0, 255}
        if camera in parts:
            assert overlap(mask, shapes((160, 96))[parts[camera]]) > 0.85, camera
        else:
            assert (mask == 255).all()
    assert cv2.imread(str(tmp_path / "masks" / "review.png")).shape[1] > 1000


def test_training_reads_the_masks(drive, tmp_path):
    bag, _ = drive
    assert run("--bag", bag, "--output", tmp_path / "masks") == 0
    (source,) = open_bags(BagConfig(str(bag)))
    sample = source.entries(masks=tmp_path / "masks")[3].load()
    for name, static in zip(sample.cameras.names, sample.static_masks, strict=True):
        mask = cv2.imread(str(tmp_path / "masks" / f"{name}_mask.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(static, mask == 255)


@pytest.mark.medium
def test_robots_in_the_street_world_are_found(tmp_path):
    size = (200, 112)
    rig = resize(default_rig(), *size).select(("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))
    save_rig(rig, tmp_path / "rig.yaml")
    root = write_dataset(tmp_path / "street", 1, 6, 2, rig, True, False, progress=False)
    parts = {"CAM_FRONT": "bonnet", "CAM_FRONT_LEFT": "mirror", "CAM_BACK_RIGHT": "half"}
    for camera, part in parts.items():
        for number, file in enumerate(sorted(root.glob(f"*/{camera}/*.jpg"), key=lambda path: path.name)):
            cv2.imwrite(str(file), paste(cv2.imread(str(file)), shapes(size)[part], number))
    assert run("--dataroot", root, "--output", tmp_path / "masks") == 0
    for camera in rig.names:
        mask = cv2.imread(str(tmp_path / "masks" / f"{camera}_mask.png"), cv2.IMREAD_UNCHANGED)
        if camera in parts:
            assert overlap(mask, shapes(size)[parts[camera]]) > 0.85, camera
        else:
            assert (mask == 255).all(), camera
    (entry, *_) = NuScenesSource(root).index("synthetic-0001", masks=tmp_path / "masks")
    assert [bool(mask.all()) for mask in entry.load().static_masks] == [name not in parts for name in rig.names]


# ---- shapes --------------------------------------------------------------------------------------------------------


def variation(steady: np.ndarray) -> np.ndarray:
    return np.where(steady, 0.1, 1.0).astype(np.float32)


@pytest.mark.parametrize("part", ["bonnet", "mirror", "mast", "half"])
def test_steady_parts_at_the_border_are_the_robot(part):
    where = shapes((320, 180))[part]
    found = find_robot(variation(where), MaskConfig(grow=0))
    assert (found & where).sum() / (found | where).sum() > 0.97
    grown = find_robot(variation(where), MaskConfig(grow=3))
    assert grown[where].mean() > 0.99 and grown.sum() > found.sum()


def test_sky_is_not_the_robot_even_where_a_mast_stands_against_it():
    y = np.arange(180)[:, None] / 180
    sky = np.broadcast_to(y < 0.35, (180, 320))
    assert not find_robot(variation(sky)).any()
    mast = shapes((320, 180))["mast"]
    found = find_robot(variation(sky | mast), MaskConfig(grow=0))
    assert found[mast & ~sky].mean() > 0.9
    assert (found & ~mast).mean() < 0.02


def test_steady_things_inside_the_image_and_specks_at_its_border_are_not_the_robot():
    steady = np.zeros((180, 320), dtype=bool)
    steady[80:120, 100:180] = True  # a car that keeps its distance
    steady[177:, 100:110] = True
    assert not find_robot(variation(steady)).any()
    assert find_robot(variation(steady), MaskConfig(least_share=0.0001, close=0)).any()


def test_a_dull_stretch_of_road_that_fades_into_the_rest_is_not_the_robot():
    y, x = np.mgrid[:180, :320]
    fading = np.clip(0.25 + 0.002 * np.hypot(x - 160, 2 * (180 - y)), 0, 1).astype(np.float32)
    assert (fading < 0.3).mean() > 0.003 and not find_robot(fading).any()
    sharp = np.where(fading < 0.3, fading, 1).astype(np.float32)
    assert find_robot(sharp).any()


def test_glints_in_the_robot_are_closed_and_windows_in_it_stay_open():
    steady = shapes((320, 180))["half"].copy()
    steady[100:104, 280:284] = False
    window = np.zeros_like(steady)
    window[40:80, 230:290] = True
    found = find_robot(variation(steady & ~window), MaskConfig(grow=0))
    assert found[100:104, 280:284].all() and not found[50:70, 240:280].any()


# ---- which images --------------------------------------------------------------------------------------------------


def test_images_are_spread_over_the_way_not_over_the_time(tmp_path):
    class Waiting(Drive):
        def T_odom_ego(self, stamp_ns):  # stands still for the first half
            T = super().T_odom_ego(stamp_ns)
            T[0, 3] = max(0.0, T[0, 3] - 20.0)
            return T

    moments = bag_moments(BagConfig(str(Waiting(frames=80, size=(64, 48)).write(tmp_path / "bag"))))
    chosen = spread_moments(moments, MaskConfig(images=30, least_travel=1.0))
    ways = [moment.frame.T_world_ego[0, 0, 3] for moment in chosen]
    assert len(chosen) == 30 and sum(way == 0 for way in ways) <= 1
    assert np.diff(ways).max() < 1.01 and ways[-1] > 19


def test_turning_on_the_spot_is_motion_too(tmp_path):
    class Turning(Drive):
        def T_odom_ego(self, stamp_ns):
            yaw = super().T_odom_ego(stamp_ns)[0, 3]
            c, s = np.cos(yaw), np.sin(yaw)
            return make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.zeros(3))

    moments = bag_moments(BagConfig(str(Turning(size=(64, 48)).write(tmp_path / "bag"))))
    assert len(spread_moments(moments, MaskConfig())) == 40


# ---- what is refused -----------------------------------------------------------------------------------------------


def refused(capsys, *arguments) -> str:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "error: " in error and "Traceback" not in error
    return error


def test_a_robot_that_stands_still_is_an_error(tmp_path, capsys):
    bag = Drive(speed=0.0).write(tmp_path / "bag")
    assert "moves 0.0 m in all" in refused(capsys, "--bag", bag, "--output", tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_without_odometry_images_that_do_not_change_are_an_error(tmp_path, capsys):
    bag = Drive(speed=0.0, odometry="").write(tmp_path / "bag")
    error = refused(capsys, "--bag", bag, "--output", tmp_path / "masks")
    assert "images hardly change" in error and not (tmp_path / "masks").exists()


def test_without_odometry_masks_are_found_all_the_same(tmp_path):
    bag = Drive(odometry="", parts={"right": "mirror"}).write(tmp_path / "bag")
    assert run("--bag", bag, "--output", tmp_path / "masks") == 0
    mask = cv2.imread(str(tmp_path / "masks" / "right_mask.png"), cv2.IMREAD_UNCHANGED)
    assert overlap(mask, shapes((160, 96))["mirror"]) > 0.85


def test_too_few_images_are_an_error(tmp_path, capsys):
    bag = Drive(frames=LEAST_IMAGES - 1).write(tmp_path / "bag")
    assert f"{LEAST_IMAGES - 1} moments" in refused(capsys, "--bag", bag, "--output", tmp_path / "masks")


def test_nothing_is_overwritten_unless_asked(drive, tmp_path, capsys):
    bag, _ = drive
    painted = tmp_path / "masks" / "left_mask.png"
    painted.parent.mkdir()
    painted.write_bytes(b"by hand")
    assert f"{painted}: there already" in refused(capsys, "--bag", bag, "--output", painted.parent)
    assert painted.read_bytes() == b"by hand" and len(list(painted.parent.iterdir())) == 1
    assert run("--bag", bag, "--output", painted.parent, "--overwrite") == 0
    assert cv2.imread(str(painted), cv2.IMREAD_UNCHANGED).shape == (96, 160)


@pytest.mark.parametrize("option", [("--images", 5), ("--threshold", 1.5), ("--width", 3), ("--least-share", -1)])
def test_options_out_of_range_are_named(tmp_path, capsys, option):
    error = refused(capsys, "--bag", tmp_path, "--output", tmp_path / "masks", *option)
    assert f"{option[0]}: expected" in error
