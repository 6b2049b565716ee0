# SPDX-License-Identifier: Apache-2.0
"""Worlds as a distribution: draws stay in their ranges and repeat by seed; image, depth, labels and voxels agree."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from gaussianocc_core.geometry.cameras import resize, view_rotation
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.geometry.voxels import locate
from gaussianocc_core.labels import CLASS_ID, FREE
from gaussianocc_core.synthetic import WORLDS, default_rig, draw_rig, fisheye_rig, occupancy, random_scene
from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic.course import EARLIEST, TICK, draw_speed, follow, wander
from gaussianocc_core.synthetic.fleet import HIGHEST, KINDS, LAYOUTS, LOWEST, NARROWEST, WIDEST, draw_vehicle
from gaussianocc_core.synthetic.places.site import Site
from gaussianocc_core.synthetic.rig import pixel_directions
from gaussianocc_core.synthetic.sensor import Optics
from gaussianocc_core.synthetic.shapes import TEXTURE, PrimitiveTable, Shapes
from gaussianocc_core.synthetic.world import FULL, World, cast_camera
from gaussianocc_core.types import EQUIDISTANT, PINHOLE, Cameras, VoxelGrid

PLACES = [name for name in WORLDS if name != "mixed"]
RIGS = [draw_rig(seed) for seed in range(300)]
GRID = VoxelGrid()


@pytest.fixture(scope="module")
def small():
    """Six cameras all round at 88 x 50."""
    return resize(default_rig(), 88, 50)


@pytest.fixture(scope="module", params=PLACES)
def scene(request, small):
    return random_scene(21, request.param, small)


@pytest.fixture(scope="module")
def frame(scene):
    return scene.render(1.0, effects=False)


# ---- rigs ------------------------------------------------------------------------------------------------------------


def horizontal_view(cameras, index):
    """Degrees between the outermost rays of the middle row that the lens has."""
    rays = pixel_directions(resize(cameras, 100, 21), index)[10]
    rays = rays[np.isfinite(rays[:, 0])]
    angles = np.degrees(np.arctan2(rays[:, 0], rays[:, 2]))
    return angles.max() - angles.min()


def test_random_rigs_have_one_to_eight_cameras_at_every_height_and_every_width():
    counts = {len(rig.cameras) for rig in RIGS}
    heights = np.concatenate([rig.cameras.T_ego_cam[:, 2, 3].numpy() for rig in RIGS])
    assert counts == set(range(1, 9))
    assert heights.min() >= LOWEST and heights.max() <= HIGHEST
    assert (heights < 0.5).mean() > 0.02 and (heights > 2.0).mean() > 0.02
    assert {rig.vehicle.kind for rig in RIGS} == set(KINDS) and {rig.layout for rig in RIGS} == set(LAYOUTS)
    views = [horizontal_view(rig.cameras, k) for rig in RIGS[:50] for k in range(len(rig.cameras))]
    assert min(views) > NARROWEST - 3.0 and max(views) < WIDEST + 3.0 and max(views) > 170.0 and min(views) < 60.0
    assert 0.3 < np.mean([rig.body is not None for rig in RIGS]) < 0.9


def test_wide_lenses_are_fisheyes_and_every_rig_can_be_rectified():
    for rig in RIGS[:25]:
        Rectifier(rig.cameras, 88, 50)
        for index, model in enumerate(rig.cameras.model):
            view = horizontal_view(rig.cameras, index)
            assert model == (EQUIDISTANT if view > 110.0 else PINHOLE) or 107.0 < view < 113.0


def test_stereo_pairs_look_the_same_way_from_ten_to_sixty_centimetres_apart():
    pairs = [rig for rig in RIGS if rig.layout.startswith("stereo")]
    baselines = []
    for rig in pairs:
        left, right = rig.cameras.T_ego_cam[:2].numpy()
        baselines.append(np.linalg.norm(left[:3, 3] - right[:3, 3]))
        assert left[:3, 2] @ right[:3, 2] > math.cos(math.radians(2.0)) and left[1, 3] > right[1, 3]
        assert rig.offsets[0] == rig.offsets[1]  # pairs fire together
    assert len(pairs) > 50 and 0.1 <= min(baselines) < 0.15 and 0.55 < max(baselines) <= 0.6


def test_no_camera_sits_inside_its_own_vehicle():
    for rig in RIGS:
        if rig.body is None:
            continue
        lows, highs = rig.body.bounds()
        for at in rig.cameras.T_ego_cam[:, :3, 3].numpy():
            assert not ((at > lows) & (at < highs)).all(axis=1).any()


# ---- courses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_speeds_are_of_the_vehicle_and_courses_stop_and_reverse(kind):
    speeds, stops, reverses = [], 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        vehicle = draw_vehicle(rng, kind)
        along = draw_speed(rng, vehicle, 8.0)
        assert along[round(-EARLIEST / TICK)] == pytest.approx(0.0, abs=1e-9)
        speed = np.diff(along) / TICK
        assert np.abs(np.diff(speed)).max() / TICK < 1.05 * vehicle.acceleration
        speeds.append(speed)
        stops, reverses = stops + (np.abs(speed) < 0.02).any(), reverses + (speed < -0.1).any()
    speeds = np.concatenate(speeds)
    assert speeds.max() <= 1.1 * vehicle.fast + 0.01 and speeds.max() > 0.5 * vehicle.fast
    assert speeds.min() >= -1.51 and stops >= 4 and reverses >= 4


def test_paths_bend_no_more_than_the_vehicle_can():
    rng = np.random.default_rng(3)
    for path, radius in (
        (wander(rng, 0.9, 30.0, (-6.0, -6.0, 6.0, 6.0)), 0.9),
        (follow(np.array([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0]]), 2.0, 16.0), 2.0),
    ):
        turn = np.abs(np.diff(path.yaw)) / np.hypot(np.diff(path.x), np.diff(path.y))
        assert turn.max() < 1.1 / radius
        course = np.arctan2(np.diff(path.y), np.diff(path.x))
        off = (course - path.yaw[:-1] + math.pi) % (2 * math.pi) - math.pi
        assert np.abs(off).max() < 0.1  # it looks where it goes
    assert abs(path.x[-1] - 9.0) < 0.3 and path.y[-1] > 3.0  # round the corner
    wide = wander(rng, 0.9, 60.0, (-6.0, -6.0, 6.0, 6.0))
    assert np.abs([wide.x, wide.y]).max() < 8.0


@pytest.mark.parametrize("place", PLACES)
def test_the_ego_turns_wobbles_and_never_jumps(place, small):
    turned, tilted = [], []
    for seed in range(6):
        scene = random_scene(seed, place)
        times = np.arange(-1.0, scene.duration, 1.0 / 12.0)
        poses = np.array([scene.T_world_ego(t) for t in times])
        steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) * 12.0
        vehicle = scene.rig.vehicle
        assert steps.max() < 1.15 * vehicle.fast + 0.2
        assert np.abs(np.diff(steps)).max() * 12.0 < vehicle.acceleration + 2.5  # heave and curvature on top
        yaw = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
        turned.append(np.ptp(yaw))
        tilted.append(np.degrees(np.arccos(np.clip(poses[:, 2, 2], -1, 1))).max())
        assert np.allclose(poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert max(turned) > 0.2 and 0.05 < max(tilted) < 15.0


def test_small_robots_look_around_where_they_stand():
    looking = 0
    for seed in range(36):
        if draw_rig(seed).vehicle.kind != "robot":
            continue
        scene = random_scene(seed, "yard")
        times = np.arange(-1.0, scene.duration, 1.0 / 12.0)
        poses = np.array([scene.T_world_ego(t) for t in times])
        steps = np.linalg.norm(np.diff(poses[:, :2, 3], axis=0), axis=1)
        turns = np.abs(np.diff(np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))))
        assert turns.max() * 12.0 < 1.5 + steps.max() * 12.0 / 0.8 + 0.3
        looking += ((steps < 1e-4) & (turns > 0.02)).any()
    assert looking >= 3


# ---- scenes ----------------------------------------------------------------------------------------------------------


def test_a_scene_repeats_to_the_bit_and_another_seed_is_another_scene(scene, small):
    first, again = scene.render(1.0), random_scene(21, scene.place, small).render(1.0)
    for a, b in zip(
        first.images + first.depths + first.labels, again.images + again.depths + again.labels, strict=True
    ):
        assert (a == b).all()
    other = random_scene(22, scene.place, small).render(1.0)
    assert np.abs(other.images[0].astype(int) - first.images[0]).mean() > 10


def test_some_cameras_alone_see_what_they_see_with_all(scene, small):
    every, some = scene.render(1.0), scene.render(1.0, small.select((small.names[4], small.names[1])))
    assert (some.images[0] == every.images[4]).all() and (some.depths[1] == every.depths[1]).all()


@pytest.mark.parametrize("place", PLACES)
def test_every_place_has_things_near_in_the_middle_and_far(place, small):
    near = middle = far = 0
    for seed in range(6):
        scene = random_scene(seed, place, small)
        for time in (0.5, 5.0):
            frame = scene.render(time, effects=False, antialias="none")
            for depth, label in zip(frame.depths, frame.labels, strict=True):
                standing = ~np.isin(label, [CLASS_ID[n] for n in ("driveable_surface", "sidewalk", "terrain")])
                depth = depth[standing & (label != FREE)]
                near += (depth < 2.0).sum()
                middle += ((depth > 4.0) & (depth < 10.0)).sum()
                far += (depth > 16.0).sum()
    total = 6 * 2 * 6 * 88 * 50
    assert near / total > 0.002 and middle / total > 0.02 and far / total > 0.02, (
        near / total,
        middle / total,
        far / total,
    )


def test_a_depth_pixel_lies_in_an_occupied_voxel_with_its_label(scene, frame):
    truth = occupancy(scene.world, 1.0, GRID, scene.cameras)
    occupied = same = total = 0
    for index in range(len(scene.cameras)):
        depth, rays = frame.depths[index], pixel_directions(scene.cameras, index)
        T = scene.cameras.T_ego_cam[index].double().numpy()
        points = (rays / rays[..., 2:] * depth[..., None]) @ T[:3, :3].T + T[:3, 3]
        far = cv2.dilate(depth, np.ones((3, 3)))
        smooth = (depth > 0) & (far < 1.05 * cv2.erode(depth, np.ones((3, 3))))
        voxel, inside = locate(GRID, points[smooth])
        found = truth.semantics[tuple(voxel[inside].T)]
        occupied, total = occupied + (found != FREE).sum(), total + len(found)
        same += (found == frame.labels[index][smooth][inside]).sum()
    assert total > 1000 and occupied / total > 0.998 and same / total > 0.9, (occupied / total, same / total)


def test_sky_and_nothing_else_has_no_depth(frame):
    for depth, label in zip(frame.depths, frame.labels, strict=True):
        assert ((depth == 0) == (label == FREE)).all() and label.max() <= FREE


def test_true_poses_and_depths_explain_the_next_frame(scene, small):
    # What stands still, seen from the next moment: nothing is seen through the point that a pixel measured.
    later = 1.25
    now, then = (scene.render(t, effects=False, antialias="none") for t in (1.0, later))
    T_then_now = np.linalg.inv(scene.T_world_cam(later)) @ scene.T_world_cam(1.0)
    still = [CLASS_ID[n] for n in ("driveable_surface", "sidewalk", "terrain", "manmade")]
    errors = []
    for index in range(len(small)):
        depth, rays = now.depths[index], pixel_directions(small, index)
        points = (rays / rays[..., 2:] * depth[..., None]) @ T_then_now[index, :3, :3].T + T_then_now[index, :3, 3]
        points = points[(depth > 0) & np.isin(now.labels[index], still)]
        points = points[points[:, 2] > 0.3]
        u, v, _ = np.floor(points @ small.intrinsics[index].double().numpy().T / points[:, 2:]).astype(int).T
        inside = (u >= 0) & (v >= 0) & (u < small.width[index]) & (v < small.height[index])
        u, v, z = u[inside], v[inside], points[inside, 2]
        near, far = (act(then.depths[index], np.ones((3, 3)))[v, u] for act in (cv2.erode, cv2.dilate))
        steady = (far < 1.1 * near) & (near > 0)
        errors.append((near / z - 1.0)[steady])
    errors = np.concatenate(errors)
    assert len(errors) > 500 and (errors > 0.02).mean() < 0.01 and abs(np.median(errors)) < 0.05


def flat_world(scene, tables):
    """The scene's ground and light, a still ego at the origin, and nothing but these tables on it."""
    site = scene.world.site
    ground = site.ground.copy()
    ground[gr.WAVES] = 0.0
    static = PrimitiveTable.concatenate(tables)
    still = Site("test", static, (), site.segments, site.crosses, ground, site.light, lambda _: np.eye(4), 0.0)
    return World(1, 1.0, still)


def test_depth_of_ground_and_a_textured_box_is_analytic_in_every_world(scene):
    cameras = Cameras(
        ("front",),
        torch.tensor([[[80.0, 0, 60.0], [0, 80.0, 40.0], [0, 0, 1]]], dtype=torch.float64),
        torch.from_numpy(make_transform(view_rotation(0.0, -10.0), np.array([0.0, 0.0, 1.2])))[None],
        (120,),
        (80,),
    )
    box = Shapes(label=CLASS_ID["others"], seed=5).box(
        (6.5, 0.0, 1.0), (3.0, 3.0, 2.0), (0.4, 0.3, 0.2), TEXTURE, m=(1, 0.05, 1)
    )
    world = flat_world(scene, [box.table()])
    _, depth, label = cast_camera(world, cameras, 0, 0.0, np.eye(4), FULL)
    T, rays = cameras.T_ego_cam[0].numpy(), pixel_directions(cameras, 0)
    rays = rays / rays[..., 2:] @ T[:3, :3].T  # per metre of z-depth, ego frame
    front = label == CLASS_ID["others"]
    with np.errstate(divide="ignore"):
        expected = np.where(front, 5.0 / rays[..., 0], -1.2 / rays[..., 2])
        top = front & (1.2 + expected * rays[..., 2] > 2.0)
    sides = front & ~top
    assert sides.sum() > 800
    assert np.abs(depth / expected - 1)[sides].max() < 1e-5
    kerb = 0.2 if scene.place == "street" else 0.0  # the street's ground has steps
    ground = (label != FREE) & ~front & (depth < 20.0)
    assert ground.sum() > 2000 and np.abs(depth / expected - 1)[ground].max() < (kerb or 1e-5)


def test_the_relief_of_a_park_is_met_where_it_is():
    hilly = next(
        s
        for s in (random_scene(k, "park", resize(default_rig(), 88, 50)) for k in range(20))
        if s.world.site.ground[gr.WAVES] > 1
    )
    frame = hilly.render(1.0, effects=False, antialias="none")
    T_world_cam, g = hilly.T_world_cam(1.0), hilly.world.site.ground
    errors = []
    for index, (depth, label) in enumerate(zip(frame.depths, frame.labels, strict=True)):
        rays = pixel_directions(hilly.cameras, index)
        points = (rays / rays[..., 2:] * depth[..., None]) @ T_world_cam[index, :3, :3].T + T_world_cam[index, :3, 3]
        on = np.isin(label, [CLASS_ID["terrain"], CLASS_ID["sidewalk"]]) & (depth < 25.0)
        errors += [abs(z - gr.relief_at(x, y, g)) for x, y, z in points[on][::7]]
    assert len(errors) > 500 and max(errors) < 0.01


def test_own_body_is_marked_stands_still_and_has_neither_depth_nor_label():
    scene = next(
        s
        for s in (
            random_scene(k, "yard", RIGS[k])
            for k in range(60)
            if RIGS[k].layout == "fisheyes" and RIGS[k].body is not None
        )
    )
    cameras = resize(scene.cameras, 100, 75)
    first, second = scene.render(0.5, cameras), scene.render(2.5, cameras)
    covered = [mask.mean() for mask in first.bodies]
    assert max(covered) > 0.02 and max(covered) < 0.8
    for k, mask in enumerate(first.bodies):
        assert (mask == second.bodies[k]).all()
        assert (first.depths[k][mask] == 0).all() and (first.labels[k][mask] == FREE).all()
    alone = occupancy(scene.world, 0.5, GRID, cameras, bodies=first.bodies)
    free_view = occupancy(scene.world, 0.5, GRID, cameras)
    assert alone.mask_camera.sum() < free_view.mask_camera.sum()


def test_network_views_are_those_of_the_rectifier_and_show_what_it_shows():
    rig = next(r for r in RIGS if r.layout == "fisheyes")
    scene = random_scene(5, "yard", rig)
    direct = scene.render(1.0, scene.cameras_at(120, 80), effects=False, antialias="edges")
    native = scene.render(1.0, effects=False, antialias="edges")
    rectifier = Rectifier(scene.cameras, 120, 80)
    for rig in RIGS[:12]:
        views, expected = replace(scene, rig=rig).cameras_at(120, 80), Rectifier(rig.cameras, 120, 80).cameras
        assert torch.allclose(views.intrinsics, expected.intrinsics) and (views.T_ego_cam == expected.T_ego_cam).all()
    for index in range(len(scene.cameras)):
        image, mask = rectifier.rectify(index, native.images[index]), rectifier.valid_mask[index]
        assert np.abs(image.astype(int) - direct.images[index])[mask].mean() < 8.0


def test_textures_of_every_place_are_band_limited_by_the_pixel(scene):
    camera = resize(default_rig().select(("CAM_FRONT",)), 160, 90)
    coarse = scene.render(1.0, camera, effects=False).images[0].astype(float)
    fine = scene.render(1.0, resize(camera, 640, 360), effects=False).images[0]
    averaged = cv2.resize(fine, (160, 90), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(coarse - averaged).mean() < 8.0


def test_mixed_draws_every_place_and_light_from_night_to_noon():
    scenes = [random_scene(seed, "mixed", resize(default_rig(), 44, 25)) for seed in range(28)]
    assert {scene.place for scene in scenes} == set(PLACES)
    assert {scene.world.site.dark == 0.0 for scene in scenes} == {True, False}
    levels = [np.mean(scene.render(0.0, antialias="none").images[0]) for scene in scenes]
    assert min(levels) < 90 and max(levels) > 140 and min(levels) > 8


# ---- sensors ---------------------------------------------------------------------------------------------------------


def optics(**changes):
    plain = {
        "gains": (1.0,),
        "tints": ((1.0, 1.0, 1.0),),
        "gamma": 1.0,
        "vignetting": 0.0,
        "defocus": 0.0,
        "shutter": 0.0,
        "noise": 0.0,
        "shot": 0.0,
        "quality": 0,
        "seed": 1,
    }
    return Optics(**{**plain, **changes})


def test_each_effect_does_what_it_says():
    picture = np.full((60, 80, 3), 100.0, dtype=np.float32)
    picture[:, 40:] = 160.0
    assert (optics().expose(0, picture) == picture).all()
    assert (optics(gains=(1.21,)).expose(0, picture)[0, 0] == 110).all()  # light by 1.21, display by its root
    dark = optics(vignetting=0.4).expose(0, picture).astype(int)
    assert dark[30, 39, 0] == 100 and dark[0, 0, 0] < 85
    edge = np.abs(np.diff(optics(defocus=0.03).expose(0, picture)[30, :, 0].astype(int))).max()
    assert 3 < edge < 30  # of 60
    noisy = optics(noise=3.0).expose(0, picture).astype(float) - picture
    assert 2.8 < noisy.std() < 3.2
    rough = picture + np.random.default_rng(0).normal(0.0, 20.0, (60, 80, 1)).astype(np.float32)
    good, bad = (np.abs(optics(quality=q).expose(0, rough).astype(int) - rough).mean() for q in (95, 40))
    assert 0.0 < good < 0.6 * bad
    flow = np.zeros((60, 80, 2), dtype=np.float32)
    flow[..., 0] = 4.0
    smeared = optics(shutter=0.01).expose(0, picture, flow)[30, :, 0].astype(int)
    assert (np.diff(smeared) > 0).sum() >= 4 and (optics(shutter=0.01).expose(0, picture, 0 * flow) == picture).all()


def test_flow_of_an_open_shutter_is_the_motion_between_its_ends():
    scene = random_scene(3, "street", resize(default_rig(), 88, 50))
    object.__setattr__(scene, "optics", optics(shutter=0.05, gains=(1.0,) * 6, tints=((1.0, 1.0, 1.0),) * 6))
    depth = scene.render(1.0, effects=False, antialias="none").depths[0]
    flow = scene._flow(scene.cameras, 0, 1.0, depth)
    rays = pixel_directions(scene.cameras, 0)
    T = np.linalg.inv(scene.T_world_cam(1.025)[0]) @ scene.T_world_cam(0.975)[0]
    points = (rays / rays[..., 2:] * depth[..., None]) @ T[:3, :3].T + T[:3, 3]
    pixel = points @ scene.cameras.intrinsics[0].double().numpy().T
    v, u = np.meshgrid(np.arange(50) + 0.5, np.arange(88) + 0.5, indexing="ij")
    good = (depth > 1.0) & (points[..., 2] > 0.5)
    with np.errstate(all="ignore"):
        expected = pixel[..., :2] / pixel[..., 2:] - np.stack([u, v], axis=-1)
    assert np.abs(expected[good]).max() > 0.05
    assert np.percentile(np.abs(flow - expected)[good], 95) < 0.02 + 0.1 * np.percentile(np.abs(expected[good]), 95)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"world": "moon"}, "world: expected one of street, yard, hall, park, mixed, got 'moon'"),
        ({"rig": "car.yaml"}, "rig: expected 'random', cameras or a Rig, got 'car.yaml'"),
        ({"duration": 0.0}, "duration: expected a positive number of seconds, got 0.0"),
    ],
)
def test_mistakes_are_named(arguments, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        random_scene(0, **arguments)
    with pytest.raises(ValueError, match="seed: expected 0 or more, got -1"):
        random_scene(-1)


def test_views_of_another_rig_and_unknown_antialiasing_are_named(scene):
    with pytest.raises(ValueError, match=r"cameras: \['FISHEYE_BACK', .*\] are not among this rig's \['CAM_FRONT'"):
        scene.render(1.0, fisheye_rig())
    with pytest.raises(ValueError, match="antialias: expected one of none, edges, full, got 'best'"):
        scene.render(1.0, antialias="best")
