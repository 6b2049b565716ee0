# SPDX-License-Identifier: Apache-2.0
"""Which views are used: by parallax, and never one that cannot be trusted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gaussianocc_core.geometry.cameras import resize, view_rotation
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.models import common_turn
from gaussianocc_core.models.common_turn import CommonTurnSettings
from gaussianocc_core.models.matching import MatchingConfig, Pairs, plane_inv_depths
from gaussianocc_core.models.motion_refinement import RefinementSettings
from gaussianocc_core.models.view_ring import (
    BAD_MOTION,
    FROZEN,
    JUMPED,
    NO_MOTION,
    RECALIBRATED,
    RingSettings,
    ViewRing,
    Views,
)
from gaussianocc_core.synthetic.rig import default_rig
from gaussianocc_core.synthetic.world import World, render_frame
from gaussianocc_core.types import Cameras

SIZE = (96, 64)
INV_DEPTHS = plane_inv_depths(MatchingConfig(), 200.0)
UNREFINED = RingSettings(turns=CommonTurnSettings(refinement=RefinementSettings(yaw=0.0)))


def rig(*yaws: float, baseline: float = 0.4, names: tuple[str, ...] = ()) -> Cameras:
    """Cameras side by side that look that way, 1.5 m above the ground."""
    count = len(yaws)
    poses = [make_transform(view_rotation(yaw), np.array([1.0, -baseline * k, 1.5])) for k, yaw in enumerate(yaws)]
    K = torch.tensor([[70.0, 0.0, 48.0], [0.0, 70.0, 32.0], [0.0, 0.0, 1.0]])
    return Cameras(
        names or tuple(f"cam{k}" for k in range(count)),
        K.repeat(count, 1, 1),
        torch.tensor(np.array(poses)).float(),
        (SIZE[0],) * count,
        (SIZE[1],) * count,
    )


def features(cameras: Cameras, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(len(cameras), 16, SIZE[1] // 2, SIZE[0] // 2, generator=generator), dim=1)


def at(x: float, yaw: float = 0.0) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.array([x, 0.0, 0.0]))


def drive(ring: ViewRing, cameras: Cameras, xs: list[float], gap: float = 0.1) -> None:
    for k, x in enumerate(xs):
        ring.add(features(cameras, k), cameras, at(x), gap * k)


def reasons(views, camera: str) -> str:
    return " | ".join(views.refused[camera])


def test_a_camera_is_matched_with_its_past_and_its_neighbour() -> None:
    cameras, ring = rig(0.0, 0.0), ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
    drive(ring, cameras, [0.0, 0.5])
    views = ring.views(features(cameras, 9), cameras, at(1.0), 0.2)
    assert set(views.used) == {"cam0", "cam1"}
    assert "cam1 now" in views.used["cam0"] and any(each.startswith("cam0 0.") for each in views.used["cam0"])
    pairs = views.sources.pairs
    assert views.count == len(pairs) == sum(map(len, views.used.values()))
    assert int(pairs.source.max()) < 2 + len(views.sources.earlier)
    assert bool((pairs.group[pairs.source < 2] == 0).all()) and bool((pairs.group[pairs.source >= 2] == 1).all())


def test_a_view_lies_where_the_geometry_says() -> None:
    """A point on the optical axis 8 m ahead, half a metre of motion ago."""
    cameras, ring = rig(0.0), ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
    drive(ring, cameras, [0.0])
    views = ring.views(features(cameras, 9), cameras, at(0.5), 0.1)
    pixel = views.sources.pairs.matrix[0] @ torch.tensor([48.0 + 7.0, 32.0, 1.0, 1 / 8.0])
    assert float(pixel[0] / pixel[2]) == pytest.approx(48.0 + 70.0 * (0.1 * 8.0) / 8.5, abs=1e-3)


def test_at_rest_only_neighbours_are_used_and_one_camera_has_none() -> None:
    for cameras, expected in ((rig(0.0, 0.0), ("cam1 now",)), (rig(0.0), ())):
        ring = ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
        drive(ring, cameras, [2.0, 2.0, 2.0])
        views = ring.views(features(cameras, 9), cameras, at(2.0), 0.3)
        assert views.used["cam0"] == expected
        assert "no parallax" in reasons(views, "cam0")


def test_views_are_chosen_by_parallax_not_by_count() -> None:
    """A slow robot: the set before shows nothing new, one that was kept from metres ago does."""
    cameras, ring = rig(90.0), ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
    drive(ring, cameras, list(np.arange(0.0, 1.2, 0.01)), gap=0.02)
    assert len(ring) <= UNREFINED.sets
    views = ring.views(features(cameras, 999), cameras, at(1.2), 2.5)
    ages = [float(label.split()[1]) for label in views.used["cam0"]]
    assert ages and min(ages) > 0.1


@pytest.mark.parametrize(
    ("pose", "reason"),
    [(None, NO_MOTION), (np.full((4, 4), np.nan), BAD_MOTION), (np.eye(4) * 2.0, BAD_MOTION), (at(80.0), JUMPED)],
)
def test_motion_that_cannot_be_is_named_and_not_used(pose: np.ndarray | None, reason: str) -> None:
    cameras, ring = rig(0.0, 0.0), ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
    drive(ring, cameras, [0.0, 0.5, 1.0])
    views = ring.views(features(cameras, 9), cameras, pose, 0.3)
    assert views.used["cam0"] == ("cam1 now",)  # whose place calibration knows
    assert reason in reasons(views, "cam0")
    ring.add(features(cameras, 9), cameras, pose, 0.3)
    again = ring.views(features(cameras, 10), cameras, at(2.0), 0.4)
    assert np.isfinite(again.sources.pairs.matrix.numpy()).all()


def test_a_jump_of_two_metres_at_walking_pace_is_one() -> None:
    cameras, ring = rig(0.0), ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
    drive(ring, cameras, [0.0, 0.15, 0.3, 0.45])
    assert ring.views(features(cameras, 9), cameras, at(0.6), 0.4).used["cam0"]
    jumped = ring.views(features(cameras, 9), cameras, at(2.6), 0.4)
    assert not jumped.used["cam0"] and JUMPED in reasons(jumped, "cam0")
    # Behind the jump a new past begins, and what lies before it stays out.
    for k in range(2):
        ring.add(features(cameras, 20 + k), cameras, at(2.6 + 0.15 * k), 0.4 + 0.1 * k)
    after = ring.views(features(cameras, 30), cameras, at(2.9), 0.6)
    assert after.used["cam0"] and JUMPED in reasons(after, "cam0")


def test_views_of_another_calibration_are_not_used() -> None:
    cameras, ring = rig(0.0, 0.0), ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
    drive(ring, cameras, [0.0, 0.5])
    other = replace(cameras, intrinsics=cameras.intrinsics * torch.tensor([[1.1], [1.1], [1.0]]))
    turned = replace(cameras, T_ego_cam=rig(30.0, 30.0).T_ego_cam)
    renamed = replace(cameras, names=("left", "right"))
    for changed in (other, turned, renamed):
        views = ring.views(features(cameras, 9), changed, at(1.0), 0.2)
        assert all(label.endswith(" now") for labels in views.used.values() for label in labels)
    assert RECALIBRATED in reasons(ring.views(features(cameras, 9), other, at(1.0), 0.2), "cam0")


def test_a_frozen_camera_is_matched_with_nothing() -> None:
    cameras, ring = rig(0.0, 0.0), ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
    drive(ring, cameras, [0.0, 0.5])
    now = features(cameras, 9)
    now[1] = features(cameras, 1)[1]  # what it showed half a metre ago
    views = ring.views(now, cameras, at(1.0), 0.2)
    assert not views.used["cam1"] and FROZEN in reasons(views, "cam1")
    assert not any("cam1" in label for label in views.used["cam0"]) and views.used["cam0"]
    # At rest every image may stay the same: that is no fault.
    still = ring.views(features(cameras, 1), cameras, at(0.5), 0.2)
    assert still.used["cam0"] == ("cam1 now",) and FROZEN not in reasons(still, "cam0")


def test_time_that_goes_back_and_a_reset_empty_the_ring() -> None:
    cameras, ring = rig(0.0), ViewRing(*SIZE, INV_DEPTHS, UNREFINED)
    drive(ring, cameras, [0.0, 0.5])
    assert not ring.views(features(cameras, 9), cameras, at(1.0), -5.0).used["cam0"]
    assert len(ring) == 0
    drive(ring, cameras, [0.0, 0.5])
    ring.reset()
    assert len(ring) == 0 and not ring.views(features(cameras, 9), cameras, at(1.0), 0.3).used["cam0"]


def patches(images: np.ndarray) -> torch.Tensor:
    """Features without a network: what 4 x 4 pixels look like, but for their mean and contrast."""
    grey = F.pad(torch.tensor(images).float().mean(dim=-1)[:, None], (1, 1, 1, 1), mode="replicate")
    height, width = images.shape[1] // 2, images.shape[2] // 2
    cells = F.unfold(grey, 4, stride=2).unflatten(2, (height, width))
    return F.normalize(cells - cells.mean(dim=1, keepdim=True), dim=1)


def test_images_make_a_turn_exact() -> None:
    """Odometry that is a degree off on a street: the views agree best under the true motion."""
    cameras = resize(default_rig(), 176, 96)
    world = World(seed=3)
    then, now = (world.T_world_ego(time) for time in (2.0, 2.08))
    seen = [patches(np.stack(render_frame(world, cameras, time).images)) for time in (2.0, 2.08)]
    exact = ViewRing(176, 96, INV_DEPTHS, UNREFINED)
    exact.add(seen[0], cameras, then, 2.0)
    right = exact.views(seen[1], cameras, now, 2.08).sources.pairs
    focal, middle = 139.0, torch.tensor([88.0, 48.0, 1.0, 0.0])

    def landing(pairs: Pairs) -> dict[tuple[int, int], torch.Tensor]:
        """By camera and earlier view: where the middle of the image lands, far away."""
        places = pairs.matrix @ middle
        keys = zip(pairs.reference.tolist(), pairs.source.tolist(), strict=True)
        return {key: place[:2] / place[2] for key, place in zip(keys, places, strict=True) if key[1] >= len(cameras)}

    true = landing(right)
    assert len(true) >= 5
    for yaw in (0.0, 1.0, -0.7):
        ring = ViewRing(176, 96, INV_DEPTHS)
        ring.add(seen[0], cameras, then @ at(0.0, np.radians(yaw)), 2.0)
        views = ring.views(seen[1], cameras, now, 2.08)
        assert views.turned[0] == pytest.approx(abs(yaw), abs=0.35)
        found = landing(views.sources.pairs)
        shifts = [float((found[key] - true[key]).norm()) for key in found.keys() & true.keys()]
        assert len(shifts) >= 5 and np.median(shifts) < focal * np.radians(0.35), yaw


def test_a_present_pose_that_is_turned_is_corrected_for_all_sets_alike() -> None:
    """Far views are too far apart to say how the rig turned; what two near sets agree on holds for them too."""
    cameras = resize(default_rig(), 176, 96)
    world = World(seed=3)
    times = [2.0 + 0.08 * k for k in range(5)]
    poses = [world.T_world_ego(time) for time in times]
    seen = [patches(np.stack(render_frame(world, cameras, time).images)) for time in times]
    middle = torch.tensor([88.0, 48.0, 1.0, 0.0])

    def views(settings: RingSettings, offs: list[float]) -> Views:
        """offs: degrees by which the yaw of each pose is off."""
        ring = ViewRing(176, 96, INV_DEPTHS, settings)
        ring.learn_depth(torch.full((len(cameras), 48, 88), 1.0 / 6.0))
        given = [pose @ at(0.0, np.radians(off)) for pose, off in zip(poses, offs, strict=True)]
        for k in range(len(times) - 1):
            ring.add(seen[k], cameras, given[k], times[k])
        ring.learn_depth(torch.full((len(cameras), 48, 88), 1.0 / 6.0))
        return ring.views(seen[-1], cameras, given[-1], times[-1])

    def landing(found: Views) -> torch.Tensor:
        assert found.sources.far is not None
        place = found.sources.far.matrix[0] @ middle  # what is far away, in the far views of the front camera
        return place[:, :2] / place[:, 2:]

    right, wrong = [0.0] * len(times), [0.0] * (len(times) - 1) + [1.0]
    true, given = (landing(views(UNREFINED, offs)) for offs in (right, wrong))
    corrected = views(RingSettings(), wrong)
    assert len(set(corrected.turned)) == 1 and corrected.turned[0] == pytest.approx(1.0, abs=0.35)
    ahead = (true[:, 0] > 0) & (true[:, 0] < 176)
    assert (
        ahead.any()
        and (landing(corrected) - true)[ahead].norm(dim=1).max() < 0.4 * (given - true)[ahead].norm(dim=1).min()
    )

    # An earlier pose that is off by itself is corrected by itself, and the far views stay as they are.
    alone = views(RingSettings(), [0.0, 0.0, 0.0, 1.2, 0.0])
    assert max(alone.turned) == 0.0 or sorted(alone.turned)[-2] == 0.0
    assert torch.equal(landing(alone), true)


def test_motion_that_was_right_is_asked_at_every_third_set_and_an_error_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cameras = resize(default_rig(), 176, 96)
    world = World(seed=3)
    asked: set[int] = set()
    ask = common_turn.refine_turn
    monkeypatch.setattr(common_turn, "refine_turn", lambda *arguments: asked.add(k) or ask(*arguments))
    ring, corrected = ViewRing(176, 96, INV_DEPTHS), []
    for k in range(13):
        time, off = 2.0 + 0.08 * k, 1.0 if k >= 10 else 0.0
        features = patches(np.stack(render_frame(world, cameras, time).images))
        pose = world.T_world_ego(time) @ at(0.0, np.radians(off))
        corrected.append(max(ring.views(features, cameras, pose, time).turned, default=0.0))
        ring.add(features, cameras, pose, time)
    rested = set(range(2, 10)) - asked
    assert rested and not any({k, k + 1, k + 2} <= rested for k in rested)
    assert max(corrected[10:]) > 0.5
