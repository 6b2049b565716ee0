# SPDX-License-Identifier: Apache-2.0
"""tools/parity_report.py on recordings of the published network, and on one of another layout that we make."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core import metrics
from gaussianocc_core.config import load_config
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import lattice as lattice_geometry
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.lifting import lift_features, plan_lift
from gaussianocc_core.reference.golden import Golden, draw
from gaussianocc_core.reference.pipeline import Pipeline
from gaussianocc_core.reference.report import ABSENT, FAIL, PASS, compare, format_rows
from gaussianocc_core.reference.stages import run_stages
from gaussianocc_core.reference.training import LossChain
from gaussianocc_core.rendering.geometry import PUBLISHED, project_gaussians
from gaussianocc_core.rendering.march import PUBLISHED_PROB, sample_depths
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.rendering.volume import render_volume
from gaussianocc_core.types import Cameras, Gaussians, Lattice, OccupancyField, VoxelGrid

ROOT = Path(__file__).resolve().parents[3]
COMPACT = ROOT / "test" / "data" / "golden"
REFERENCE = ROOT / "config" / "model" / "reference.yaml"
SPEC = importlib.util.spec_from_file_location("parity_report", ROOT / "tools/parity_report.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

# The published network in small: bottlenecks, three hourglasses, four head blocks, but narrow.
SMALL_REFERENCE = """
name: small
encoder: {backbone: resnet50, width: 0.125, up_channels: [16, 12], feature_channels: 8, norm: instance, rays: false}
lattice: {low: [-40.0, -40.0, -1.0], high: [40.0, 40.0, 5.4], shape: [16, 16, 8], contraction: 0.66667}
decoder: {kind: hourglass, surface: false, channels: 4, hourglasses: 3, head_blocks: 4, position: false}
gaussians: {scale: [0.2, 0.2, 0.2]}
pose: {backbone: resnet18, width: 0.125, channels: 8}
quirks: published
"""


def failed(rows):
    return [row.stage for row in rows if row.verdict == FAIL]


@pytest.mark.medium
def test_the_compact_recording_is_reproduced(capsys):
    assert tool.main([str(COMPACT)]) == 0
    out = capsys.readouterr().out
    assert FAIL not in out.replace("0 FAIL", "")
    assert len([line for line in out.splitlines() if f" {PASS}" in line]) >= 60
    for stage in ("features", "mIoU"):  # not in the compact part
        assert next(line for line in out.splitlines() if line.startswith(f"{stage} ")).split()[-1] == ABSENT


@pytest.mark.medium
def test_the_whole_recording_is_reproduced(shared_data):
    rows = list(run_stages(shared_data / "golden", load_config(REFERENCE, ModelConfig)))
    assert not failed(rows), format_rows(rows)
    assert not [row.stage for row in rows if row.verdict == ABSENT]
    assert len(rows) >= 80


def test_drawn_numbers_are_the_documented_ones():
    numbers = draw("encoder/backbone.0.weight", 200_000)
    assert numbers.min() >= 0 and numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.002
    assert np.array_equal(numbers * 2**24, np.round(numbers * 2**24))
    assert np.array_equal(draw("encoder/backbone.0.weight", 70_000), numbers[:70_000])  # over a chunk's border
    assert not np.array_equal(draw("another/tag", 10), numbers[:10])


def test_a_weight_has_the_recorded_checksum():
    from gaussianocc_core.reference.golden import checksum

    golden = Golden(COMPACT)
    recorded = golden.json("weights_crc32")
    for network, name, shape in (
        ("encoder", "depth_layer.weight", (64, 256, 1, 1)),
        ("depth", "_3DCNN.classif_semantic.8.1.bias", (18,)),
        ("depth", "_3DCNN.dres2.conv5.1.running_var", (64,)),
        ("pose_encoder", "encoder.layer4.1.bn2.weight", (512,)),
        ("pose", "net.3.weight", (12, 256, 1, 1)),
    ):
        assert checksum(golden.weights.tensor(network, name, shape)) == recorded[network][name], name


# ---- a recording of another layout ---------------------------------------------------------------------------------


def write_inputs(folder, names, yaws, image_hw, render_hw, grid_zyx, prefix):
    """config.json and inputs.npz of a rig of our own."""
    folder.mkdir()
    random = np.random.default_rng(len(names))
    config = {
        "tag_prefix": prefix, "image_hw": image_hw, "render_hw": render_hw, "grid_zyx": grid_zyx,
        "range_xyz": [-40, 40, -40, 40, -1, 5.4], "contraction_ratio": 0.66667, "num_classes": 18, "free_class": 17,
        "min_depth": 0.1, "max_depth": 80.0, "native_hw": [90, 160], "cameras": names, "note": "not a setting",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    rig = ring(yaws=yaws)
    count = len(names)

    def intrinsics(height, width):
        K = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
        K[:, :3, :3] = camera_geometry.resize(rig, width, height).intrinsics.numpy()
        return K

    coarse = random.integers(0, 256, (3, count, 3, image_hw[0] // 4, image_hw[1] // 4), dtype=np.uint8)
    images = coarse.repeat(4, axis=-1).repeat(4, axis=-2)
    K = intrinsics(*image_hw)
    np.savez_compressed(
        folder / "inputs.npz", image_t0=images[0], image_tm1=images[1], image_tp1=images[2], K=K,
        K_native=intrinsics(90, 160), inv_K=np.linalg.pinv(K), K_render=intrinsics(*render_hw),
        cam_to_ego=rig.T_ego_cam.numpy().astype(np.float32),
        semantic_label=random.integers(0, 18, (count, *image_hw), dtype=np.uint8),
    )  # fmt: skip


@torch.inference_mode()
def record(folder, reference):
    """Every file of the golden README, as our implementation computes it."""
    run = Pipeline(Golden(folder), reference)

    def save(file, **arrays):
        np.savez_compressed(folder / f"{file}.npz", **{k: np.asarray(v) for k, v in arrays.items()})

    (folder / "weights_crc32.json").write_text(json.dumps(run.checksums))
    layout = {
        network: [[name, list(value.shape), "float32"] for name, value in state.items()]
        for network, state in run.states.items()
    }
    layout["depth"].append(["Zval", [1, 7], "float32"])  # a dead entry
    (folder / "state_dict_layout_nusc-sem-gs.json").write_text(json.dumps(layout))

    lifted = run.lifted
    sums = [lifted.double().sum(), lifted.double().abs().sum()]
    save("network", features=run.features, layer3_cam0=run.layer3[:1, ::16], logits=run.field.logits[0],
         lifted_ch0to63step4=lifted[::4], lifted_sum=sums)  # fmt: skip
    gaussians, chain = run.gaussians(0.2), LossChain(run)
    save("gaussians", xyz=gaussians.means, scale=-gaussians.scales[:, 0], opacity=gaussians.opacities,
         feature_first500=gaussians.features[:500], entropy_loss_weighted=chain.entropy,
         total_variation=chain.variation)  # fmt: skip

    views = {"s02": (0.2, True, 1), "s10": (1.0, True, 1), "s10_fovyfixed": (1.0, False, 6)}
    rendered = {}
    for tag, (scale, horizontal, step) in views.items():
        view = run.views(scale, horizontal)
        rendered |= {f"depth_{tag}": view.depth[:, 0], f"alpha_{tag}": view.alpha[:, 0]}
        rendered[f"semantic_{tag}"] = view.features[:, ::step]
    save("render", **rendered)

    shifts = {"offset02": 0.2, "offset_ref": 0.5 * lattice_geometry.mean_cell_size(run.lattice)}
    occupancy = {}
    for tag, shift in shifts.items():
        grid = lattice_geometry.shifted_grid(VoxelGrid(), shift)
        queried = lattice_geometry.resample(run.field.logits, run.lattice, grid)[0]
        occupancy |= {f"logits_{tag}": queried[:, ::8, ::8, ::2], f"argmax_{tag}": queried.argmax(0).byte()}
        occupancy[f"shift_{tag}"] = shift
    save("occupancy", **occupancy)

    large = Lattice(run.lattice.low, run.lattice.high, (20, 24, 8), run.lattice.contraction)
    points = lattice_geometry.points(large).transpose(0, 2).reshape(-1, 3)  # x fastest
    index = np.arange(0, len(points), 3)
    distance = points.norm(dim=1)
    scales = torch.full_like(distance, 0.2)
    scales[distance > 60], scales[distance > 80] = 0.8, 1.6
    cameras = run.network_cameras
    plan = plan_lift(cameras, points[index], constants=run.quirks.lift)
    seen = [
        lift_features(
            run.features[n : n + 1, :1], plan_lift(cameras.select((name,)), points[index], constants=run.quirks.lift)
        )
        for n, name in enumerate(cameras.names)
    ]
    save("fullgrid_8x24x20", index_zyx_flat=index, xyz=points[index], scale=scales[index],
         scale_counts=[int((scales == s).sum()) for s in scales.unique()],
         lifted4=lift_features(run.features[:, :4], plan), n_cams_seeing=(torch.cat(seen) != 0).sum(0).byte(),
         **{f"axis_{'xyz'[a]}": lattice_geometry.axis_coordinates(large, a, np.float32) for a in range(3)})  # fmt: skip

    pose = {"feat_last_m1": run.pose_net.encode(torch.cat([run.images("tm1"), run.images("t0")], 2)[0])[:, ::8]}
    for name in ("m1", "p1"):
        pose[f"axisangle_{name}"] = run.motion(name).axis_angle[:, :, None]
        pose[f"translation_{name}"] = run.motion(name).translation[:, :, None]
        pose[f"cam_T_cam_{name}"] = run.camera_motion(name)
    save("pose", **pose)

    total = chain.photometric + chain.semantic + chain.entropy + 0.1 * chain.variation
    save("losses", depth_fullres=chain.depth[:, ::4, ::4], pix_coords_m1=chain.sampling_grid(0)[:, ::8, ::8],
         warped_m1=chain.warped[0][:, :, ::4, ::4], reproj_m1=chain.errors[0][:, ::4, ::4],
         class_weights=chain.class_weights, scalar_loss_pe_0=chain.photometric, scalar_loss_semantic_0=chain.semantic,
         scalar_loss_entropy_last_0=chain.entropy, scalar_loss_distortion_0=0.1 * chain.variation,
         scalar_self_loss=total, scalar_smooth_unweighted=chain.smooth, scalar_min_d=chain.depth[0].min(),
         scalar_max_d=chain.depth[0].max(), scalar_automask_fraction=chain.least[1].float().mean())  # fmt: skip

    for file, shift in (("volume_render_prob", 0.0), ("volume_render_prob_far", 6.0)):
        logits = run.field.logits.clone()
        logits[:, -1] += shift
        arrays = {"Zval": sample_depths(run.lattice)[None]}
        for ratio, stride in (("full", 1), ("ratio025", 4)):
            settings = PUBLISHED_PROB.__class__(opaque_end=True, dropped_feature=1.0, feature_stride=stride)
            view = render_volume(OccupancyField(logits), run.lattice, run.render_cameras, settings=settings)
            arrays[f"depth_{ratio}"] = view.depth[:, 0].clamp(0.1, 200)
            arrays[f"semantic_{ratio}"] = view.features.permute(0, 2, 3, 1)[:, ::3, ::4]
        save(file, **arrays)
    record_scene(save)
    record_metrics(save)


def record_scene(save):
    generator = torch.Generator().manual_seed(0)
    means = 6 * torch.rand(200, 3, generator=generator) - 3
    quats = torch.nn.functional.normalize(torch.randn(200, 4, generator=generator), dim=1)
    scales = 0.05 + 0.3 * torch.rand(200, 3, generator=generator)
    opacities, features = torch.rand(200, generator=generator), torch.randn(200, 18, generator=generator)
    gaussians = Gaussians(means, quats, scales, opacities, features)
    K = torch.tensor([[30.0, 0, 14, 0], [0, 34, 11, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    T = torch.eye(4)
    T[2, 3] = -5.0
    cameras = Cameras(("scene",), K[None, :3, :3], T[None], (32,), (20,))
    arrays = {}
    for tag, horizontal in (("bug", True), ("fixed", False)):
        raster = PUBLISHED.__class__(**{**vars(PUBLISHED), "horizontal_focal": horizontal})
        view = rasterize(gaussians, cameras, constants=raster)
        opaque = Gaussians(means, quats, scales, torch.ones(200), features)
        seen = project_gaussians(opaque, cameras.intrinsics, cameras.T_ego_cam, 32, 20, 0.2, raster).gaussian
        radii = np.zeros(200, np.int32)
        radii[seen.numpy()] = 3
        arrays |= {f"feat_{tag}": view.features[0, ::3], f"depth_{tag}": view.depth[0, 0]}
        arrays |= {f"alpha_{tag}": view.alpha[0, 0], f"radii_{tag}": radii}
    save("rasteriser_scene", xyz=means, scale=scales, quat_wxyz=quats, opacity=opacities[:, None], feature=features,
         K=K.double(), cam_to_world=T.double(), **arrays)  # fmt: skip


def record_metrics(save):
    random = np.random.default_rng(0)
    truth = random.choice([17, 4, 11, 15], (2, 200, 200, 16), p=[0.97, 0.01, 0.01, 0.01]).astype(np.uint8)
    prediction = np.where(random.random(truth.shape) < 0.9, truth, random.integers(0, 18, truth.shape)).astype(np.uint8)
    mask = random.random(truth.shape) < 0.5
    iou = metrics.class_iou(metrics.confusion_matrix(truth, prediction, mask))
    origins = np.array([[0.9, 0.1, 1.8], [10.0, -3.0, 1.7]], dtype=np.float32)
    rays = metrics.RayIoU()
    count, first = len(rays.directions), rays.directions[:5]
    rays.directions = rays.directions[::50]
    true, predicted = (
        metrics.cast_rays(labels[0], origins, rays.directions, VoxelGrid()) for labels in (truth, prediction)
    )
    counted = true[0] != 17
    for sample in zip(truth, prediction, strict=True):
        rays.update(*sample, origins)
    depth_gt = np.where(random.random((9, 16)) < 0.5, 0, random.uniform(1, 90, (9, 16))).astype(np.float32)
    depth_pred = random.uniform(1, 90, (9, 16)).astype(np.float32)
    save("metrics", occ_gt=truth, occ_pred=prediction, occ_mask=np.packbits(mask), iou18=iou,
         miou17=metrics.mean_iou(iou, range(17)), miou_star15=metrics.mean_iou(iou, metrics.STAR_CLASSES, False),
         depth_gt=depth_gt, depth_pred=depth_pred, depth_errors=metrics.depth_errors(depth_gt, depth_pred),
         ray_dirs_first=first, ray_count=count, ray_subset_step=50, ray_origins=origins,
         ray_gt0=np.stack(true, -1)[counted], ray_pred0=np.stack(predicted, -1)[counted],
         rayiou_124=rays.per_class(), rayiou_mean=rays.summary()["ray_iou"])  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Architecture file and recorded directory: four cameras, none of a known name, other sizes, grid and weights."""
    folder = tmp_path_factory.mktemp("parity")
    (folder / "small.yaml").write_text(SMALL_REFERENCE)
    write_inputs(
        folder / "golden", ["north", "west", "south", "east"], (0.0, 90.0, 180.0, -90.0), [64, 96], [27, 40],
        [8, 12, 20], "another/",
    )  # fmt: skip
    record(folder / "golden", load_config(folder / "small.yaml", ModelConfig))
    return folder


def edit(path, **changes):
    arrays = dict(np.load(path))
    for name, change in changes.items():
        arrays[name] = change(arrays[name])
    np.savez_compressed(path, **arrays)


@pytest.mark.medium
def test_a_directory_of_another_layout_is_reproduced(small):
    rows = list(run_stages(small / "golden", load_config(small / "small.yaml", ModelConfig)))
    assert not failed(rows), format_rows(rows)
    assert {row.stage for row in rows if row.verdict == ABSENT} <= {f"render {tag} visible" for tag in
            ("s02", "s10", "s10_fovyfixed")}  # fmt: skip
    assert len(rows) >= 80
    # Its weights are its own: the prefix counts.
    assert (
        Golden(small / "golden").weights.tensor("pose", "net.3.bias", (12,)).tolist()
        != Golden(COMPACT).weights.tensor("pose", "net.3.bias", (12,)).tolist()
    )


@pytest.mark.medium
def test_two_cameras_and_absent_files(small, tmp_path, capsys):
    folder = tmp_path / "golden"
    write_inputs(folder, ["front", "back"], (0.0, 180.0), [32, 64], [18, 32], [4, 8, 12], "")
    assert tool.main([str(folder), "--config", str(small / "small.yaml")]) == 0
    out = capsys.readouterr().out
    assert " 0 FAIL" in out and out.splitlines()[-1].startswith("0 ok")


@pytest.mark.medium
def test_a_corrupted_array_fails_and_only_it(small, tmp_path, capsys):
    folder = tmp_path / "golden"
    shutil.copytree(small / "golden", folder)

    def one(array, value=1.0):
        array = array.copy()
        array.flat[array.size // 2] += value
        return array

    def noisy(array):
        array = array.copy()
        array[:, : len(array[0]) // 2] += 0.1
        return array

    edit(folder / "network.npz", features=lambda a: one(a, 2e-3), logits=lambda a: one(a, np.nan))
    edit(folder / "gaussians.npz", opacity=lambda a: one(a, 2e-3))
    edit(folder / "render.npz", alpha_s10=noisy)
    edit(folder / "occupancy.npz", argmax_offset02=lambda a: (a + 1) % 18)
    edit(folder / "pose.npz", axisangle_p1=lambda a: one(a, 1e-6), cam_T_cam_m1=lambda a: a[:-1])
    edit(folder / "losses.npz", scalar_loss_pe_0=lambda a: a + 1e-5, warped_m1=noisy)
    edit(folder / "volume_render_prob_far.npz", depth_full=noisy)
    edit(folder / "rasteriser_scene.npz", radii_fixed=lambda a: one(a * 0, 1))
    edit(folder / "metrics.npz", iou18=lambda a: one(a, 1e-6), ray_pred0=lambda a: one(a, 0.4))
    crc = json.loads((folder / "weights_crc32.json").read_text())
    crc["pose"]["net.0.bias"] += 1
    (folder / "weights_crc32.json").write_text(json.dumps(crc))

    assert tool.main([str(folder), "--config", str(small / "small.yaml")]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if f" {FAIL} " in f"{line} "]
    assert {line.split("  ")[0] for line in lines} == {
        "weights crc32", "features", "logits", "Gaussians opacity", "render s10 alpha", "query offset02 argmax",
        "axis-angle p1", "camera motion m1", "loss photometric", "warped image m1", "volume far full depth",
        "scene fixed visible", "IoU per class", "rays pred",
    }  # fmt: skip
    assert "first: pose/net.0.bias" in lines[0]
    assert "shape (3, 4, 4), ours (4, 4, 4)" in next(line for line in lines if line.startswith("camera motion m1"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "not readable JSON"),
        ('{"image_hw": [1, 2]}', "missing value"),
        ("[]", "an object"),
    ],
)
def test_a_folder_that_is_no_recording_is_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert tool.main([str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_a_camera_without_a_name_is_one_line(small, tmp_path, capsys):
    folder = tmp_path / "golden"
    write_inputs(folder, ["front", "back"], (0.0, 180.0), [32, 64], [18, 32], [4, 8, 12], "")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "cameras": ["front"]}))
    shutil.copy(small / "golden" / "network.npz", folder)
    assert tool.main([str(folder), "--config", str(small / "small.yaml")]) == 2
    captured = capsys.readouterr().err
    assert "intrinsics: expected (..., 1, 3, 3), got (2, 3, 3)" in captured and captured.count("\n") == 1


def test_a_recording_with_a_broken_archive_is_one_line(small, tmp_path, capsys):
    shutil.copytree(small / "golden", tmp_path / "golden")
    (tmp_path / "golden" / "network.npz").write_bytes(b"PK not an archive")
    assert tool.main([str(tmp_path / "golden"), "--config", str(small / "small.yaml")]) == 2
    assert "network.npz: not a readable .npz" in capsys.readouterr().err


def test_comparison_knows_nan_shapes_and_shares():
    nan = float("nan")
    assert compare("a", [1.0, nan], lambda: [1.0, nan], 0.0).verdict == PASS
    assert compare("a", [1.0, nan], lambda: [1.0, 2.0], 9.0).verdict == FAIL
    assert compare("a", [1.0], lambda: [1.0, 2.0], 9.0).verdict == FAIL
    assert compare("a", None, lambda: 1 / 0, 1.0).verdict == ABSENT
    assert compare("a", [1000.0], lambda: [1000.5], 1e-3, relative=True).verdict == PASS
    image = np.zeros((2, 10))
    image[0, 3] = image[1, 3] = 1.0
    row = compare("a", np.zeros((2, 10)), lambda: image, 0.5, least_share=0.9, pixel_axis=0)
    assert row.verdict == PASS and row.share == pytest.approx(0.9) and row.error == 1.0
    assert compare("a", np.zeros((2, 10)), lambda: image, 0.5, least_share=0.95, pixel_axis=0).verdict == FAIL
