# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from support.carving import GRID, HEIGHT, WIDTH, ground, look_ahead, measure, place, wall, with_masks

from gaussianocc_core.geometry.voxels import locate
from gaussianocc_core.labels import CLASS_ID, FREE, IGNORE, UNOBSERVED
from gaussianocc_core.mapping.carving import CarveSettings, carve, choose_sets, make_rays

CAR = CLASS_ID["car"]


def at(labels, x, y, z):
    index, inside = locate(GRID, np.array([[x, y, z]]))
    assert inside.all()
    return labels.semantics[tuple(index[0])]


def carve_one(depth, error=0.01, **more):
    placed = place(**more)
    rays = make_rays(placed, measure(placed, depth, error))
    return carve([rays], rays, GRID)


def test_a_wall_is_occupied_the_way_to_it_free_and_what_is_behind_unknown():
    labels = carve_one(wall(8.05), classes=np.full((1, HEIGHT, WIDTH), CAR, np.uint8))
    assert at(labels, 8.05, 0.1, 1.5) == CAR
    assert {at(labels, x, 0.1, 1.5) for x in (2.0, 4.0, 6.0, 7.0)} == {FREE}
    assert {at(labels, x, 0.1, 1.5) for x in (9.0, 12.0)} == {UNOBSERVED}
    assert at(labels, -2.0, 0.1, 1.5) == UNOBSERVED  # nobody looks back
    assert labels.known.sum() == (labels.semantics != UNOBSERVED).sum() > 0


def test_nothing_but_the_wall_is_occupied():
    labels = carve_one(wall(8.05))
    x = GRID.origin[0] + (np.argwhere(labels.semantics < FREE)[:, 0] + 0.5) * GRID.voxel_size
    assert len(x) > 50 and np.abs(x - 8.05).max() < 0.45


def test_a_ray_that_is_unsure_by_metres_ends_nowhere_and_passes_only_what_is_clearly_before_it():
    labels = carve_one(wall(8.05), error=0.3)  # of 8 m: 2.4 m, and the band is 1.5 times that
    assert not (labels.semantics < FREE).any()
    assert at(labels, 4.0, 0.1, 1.5) == FREE
    assert {at(labels, x, 0.1, 1.5) for x in (6.0, 7.0, 8.05, 9.0)} == {UNOBSERVED}


def test_the_ends_spread_over_the_expected_error_and_free_stops_before():
    sure, unsure = carve_one(wall(8.05)), carve_one(wall(8.05), error=0.1)
    assert at(sure, 7.25, 0.1, 1.5) == FREE and at(unsure, 7.25, 0.1, 1.5) != FREE


def test_the_ground_at_a_slant_is_occupied_though_many_rays_pass_its_voxels():
    drive = [place(stamp_s=0.1 * k, x=0.3 * k) for k in range(10)]
    sets = [make_rays(each, measure(each, ground)) for each in drive]
    flat = carve(sets, sets[4], GRID)
    layer = int((0.0 - GRID.origin[2]) / GRID.voxel_size)
    ahead = flat.semantics[20:45, 18:22, layer]  # 4 to 14 m ahead
    assert (ahead < FREE).mean() > 0.98
    assert not (flat.semantics[:, :, layer + 1 :] < FREE).any()  # and nothing stands on it
    # A third of the rays must end in a voxel: of one as thick as wide, most pass on their way to the next.
    settings = [CarveSettings(layers=layers, least_share=0.33, moment=0.0) for layers in (1, 4)]
    strict = [carve(sets, sets[4], GRID, each) for each in settings]
    thick, thin = ((each.semantics[20:45, 18:22, layer] < FREE).mean() for each in strict)
    assert thin > 0.9 and thick < 0.6


def test_the_sky_is_passed_as_far_as_the_grid_goes():
    sky = np.full((1, HEIGHT, WIDTH), FREE, np.uint8)
    labels = carve_one(lambda o, r: np.zeros(r.shape[:3]), classes=sky)
    assert at(labels, 10.0, 0.1, 1.5) == FREE and not (labels.semantics < FREE).any()


def test_a_pixel_without_depth_says_nothing():
    labels = carve_one(lambda o, r: np.zeros(r.shape[:3]))
    assert (labels.semantics == UNOBSERVED).all()


def test_the_robot_itself_says_nothing():
    cameras, lenses = look_ahead()
    rig = cameras, with_masks(lenses, np.zeros_like(lenses.valid_mask))
    assert (carve_one(wall(8.05), rig=rig).semantics == UNOBSERVED).all()


def test_an_edge_ends_nowhere():
    depth = np.full((1, HEIGHT, WIDTH), 4.0, np.float32)
    depth[:, :, WIDTH // 2 :] = 12.0
    depth[:, :, WIDTH // 2] = 7.0
    placed = place()
    maps = measure(placed, lambda o, r: depth)
    rays = make_rays(placed, maps)
    assert (rays.half[0, :, WIDTH // 2] == 0).all() and (rays.half[0, :, WIDTH // 2 + 2] > 0).all()
    assert rays.depth[0, :, WIDTH // 2].max() < 4.0  # it passes no farther than the near thing
    assert not (carve([rays], rays, GRID).semantics[25:30] < FREE).any()


def test_the_class_is_that_of_most_rays_and_unlabelled_ones_do_not_vote():
    classes = np.full((1, HEIGHT, WIDTH), IGNORE, np.uint8)
    classes[:, ::2] = CAR
    labels = carve_one(wall(8.05), classes=classes)
    assert set(np.unique(labels.semantics[labels.semantics < FREE])) == {CAR}
    assert set(np.unique(carve_one(wall(8.05)).semantics)) == {0, FREE, UNOBSERVED}


def test_what_left_is_free_where_more_rays_pass_than_ended():
    sets = [place(stamp_s=float(k)) for k in range(10)]
    rays = [make_rays(each, measure(each, wall(6.05 if k == 0 else 12.05))) for k, each in enumerate(sets)]
    labels = carve(rays, rays[5], GRID, CarveSettings(least_share=0.2))
    assert at(labels, 6.05, 0.1, 1.5) == FREE and at(labels, 12.05, 0.1, 1.5) < FREE


def test_sets_are_seen_from_where_they_were():
    near, far = place(stamp_s=0.0), place(stamp_s=1.0, x=3.0)
    rays = [make_rays(near, measure(near, wall(9.05))), make_rays(far, measure(far, wall(6.05)))]  # the same wall
    labels = carve(rays, rays[0], GRID)
    assert at(labels, 9.05, 0.1, 1.5) < FREE and at(labels, 6.05, 0.1, 1.5) == FREE
    moved = carve(rays, rays[1], GRID)
    assert at(moved, 6.05, 0.1, 1.5) < FREE


def test_the_window_is_of_one_run_and_thinned_evenly_with_the_moment_itself():
    sets = [make_rays(p, measure(p, wall(8.0), stride=8)) for p in (place(stamp_s=0.1 * k) for k in range(61))]
    other = make_rays(place(stamp_s=3.05, run=1), measure(place(), wall(8.0), stride=8))
    chosen = choose_sets([*sets, other], sets[30], CarveSettings(window=2.0, most_sets=8))
    stamps = [each.stamp_s for each in chosen]
    assert sets[30] in chosen and other not in chosen
    assert len(chosen) <= 9 and min(stamps) == pytest.approx(1.0) and max(stamps) == pytest.approx(5.0)
    assert max(np.diff(stamps)) < 0.7


@pytest.mark.parametrize("change", [{"window": -1.0}, {"most_sets": 0}, {"layers": 0}])
def test_settings_that_mean_nothing_are_refused(change):
    with pytest.raises(ValueError, match="carving: expected"):
        CarveSettings(**change)


def test_what_moves_is_where_it_is_at_the_moment():
    """A wall that comes nearer at 1 m/s, to 9.25 m at the moment."""
    sets = [place(stamp_s=0.2 * k) for k in range(15)]
    places = [10.65 - 0.2 * k for k in range(15)]
    rays = [make_rays(each, measure(each, wall(x))) for each, x in zip(sets, places, strict=True)]
    labels, smear = (carve(rays, rays[7], GRID, CarveSettings(moment=moment)) for moment in (0.25, 0.0))
    to_come = [places[k] for k in (11, 12, 13)]
    assert at(labels, places[7], 0.1, 1.5) < FREE and {at(labels, x, 0.1, 1.5) for x in to_come} == {FREE}
    assert all(at(smear, x, 0.1, 1.5) < FREE for x in to_come)  # all moments at once
    # A thing that few rays hit is there while they do, though many passed before it came.
    came = [make_rays(each, measure(each, wall(6.05 if k >= 14 else 12.05))) for k, each in enumerate(sets)]
    assert at(carve(came, came[14], GRID), 6.05, 0.1, 1.5) < FREE
    strict = CarveSettings(moment=0.0, least_share=0.2)
    assert at(carve(came, came[14], GRID, strict), 6.05, 0.1, 1.5) == FREE
