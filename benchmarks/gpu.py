# SPDX-License-Identifier: Apache-2.0
"""Check and time gsplat on a CUDA machine against the CPU rasteriser and volume rendering. One unattended run.

python benchmarks/gpu.py [--active 0.09 0.2 1] [--repeats 30] [--json FILE]

Needs this folder's repository, torch with CUDA, numba and gsplat; installs nothing. gsplat compiles its kernels at its
first call: minutes, once, into $TORCH_EXTENSIONS_DIR (here by default under $OUT, else benchmarks/results).
The scene: 300 x 300 x 24 voxels as Gaussians, six 320 x 180 cameras, 18 features and depth. Volume rendering takes 424
samples a ray, the published number, and 100 to 40 m, one a voxel of 0.4 m; one camera at a time, backward included.
What is written, after every section: images and gradients of gsplat against the CPU's, milliseconds and memory of both
renderers, and of a training step of the reference network (encoder, lift, 3D network, renderer, optimiser).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # nothing is installed on such a machine

from render import street, street_field, surround, total  # noqa: E402
from report import write_report  # noqa: E402

from gaussianocc_core.geometry import lattice as lattice_geometry  # noqa: E402
from gaussianocc_core.models.gaussian_head import GaussianHead  # noqa: E402
from gaussianocc_core.models.image_encoder import ImageEncoder  # noqa: E402
from gaussianocc_core.models.lifting import lift_features, plan_lift  # noqa: E402
from gaussianocc_core.models.voxel_decoder import VoxelDecoder  # noqa: E402
from gaussianocc_core.rendering import gpu  # noqa: E402
from gaussianocc_core.rendering.march import DEFAULT_MARCH, MarchSettings  # noqa: E402
from gaussianocc_core.rendering.rasterize import rasterize  # noqa: E402
from gaussianocc_core.rendering.volume import render_volume  # noqa: E402
from gaussianocc_core.types import Cameras, Gaussians, Lattice, OccupancyField, VoxelGrid  # noqa: E402

CUDA = "cuda"
MARCHES = {"volume, published samples": DEFAULT_MARCH, "volume, 100 samples": MarchSettings(samples=100, far=40.0)}
# Added to the free logit of the untrained network: half of all voxels opaque, or nearly all of them empty.
FREE_BIASES = (0.0, 8.0)


class Report:
    """Rows, written to the file after every section, so that a run that is cut short leaves what it has."""

    def __init__(self, path: Path, shapes: dict) -> None:
        self.path, self.shapes, self.failed = path, shapes, False
        self.rows: list[dict] = []

    def add(self, **row) -> None:
        self.rows.append(row)
        figures = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k != "section")
        print(f"{row['section']}: {', '.join(figures)}", flush=True)

    def section(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # one section must not cost the others: a lease ends
            traceback.print_exc()
            self.failed = True
            self.add(section=name, error=f"{type(error).__name__}: {error}")
        torch.cuda.empty_cache()
        device = torch.cuda.get_device_properties(0)
        write_report(
            self.path,
            self.shapes,
            self.rows,
            gpu=device.name,
            gpu_memory_gb=device.total_memory / 2**30,
            cuda=torch.version.cuda,
            gsplat=gsplat_version(),
        )


def gsplat_version() -> str:
    import gsplat

    return gsplat.__version__


def milliseconds(work: Callable[[], object], repeats: int, warm_up: int = 3) -> dict:
    """Median and quartile distance by device events, and the peak of allocated memory above what was there, MB."""
    for _ in range(warm_up):
        work()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, times = torch.cuda.memory_allocated(), []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    low, median, high = np.percentile(times, [25, 50, 75])
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    return {"ms": float(median), "iqr_ms": float(high - low), "repeats": repeats, "peak_mb": peak}


def with_gradients(gaussians: Gaussians) -> Gaussians:
    """Leaves where training on voxels needs gradients."""
    return replace(
        gaussians,
        opacities=gaussians.opacities.detach().clone().requires_grad_(),
        features=gaussians.features.detach().clone().requires_grad_(),
    )


def check_images(report: Report, gaussians: Gaussians, cameras: Cameras, active: float) -> None:
    """gsplat's image and gradients against the CPU rasteriser's, which is written from the same constants."""
    found = []
    for device, backend in (("cpu", "cpu"), (CUDA, "gsplat")):
        leaves = with_gradients(gaussians.to(device))
        views = rasterize(leaves, cameras.to(device), backend=backend)
        (total(views) / views.depth.numel()).backward()
        tensors = {"features": views.features, "depth": views.depth, "alpha": views.alpha}
        tensors |= {"d_opacities": leaves.opacities.grad, "d_features": leaves.features.grad}
        found.append({name: tensor.detach().cpu() for name, tensor in tensors.items()})
    for name, expected in found[0].items():
        error = (found[1][name] - expected).abs()
        report.add(
            section="gsplat against cpu",
            active=active,
            tensor=name,
            relative=float(error.norm() / expected.norm()),
            largest=float(error.max()),
            share_above_1e_3=float((error > 1e-3).float().mean()),
        )


def time_renderers(
    report: Report, gaussians: Gaussians, grid: VoxelGrid, cameras: Cameras, active: float, repeats: int
) -> None:
    field, lattice = street_field(gaussians, grid)
    gaussians, field, cameras = gaussians.to(CUDA), field.to(CUDA), cameras.to(CUDA)

    def splat(backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            views = rasterize(with_gradients(gaussians) if backward else gaussians, cameras, backend="gsplat")
            if backward:
                total(views).backward()

    def march(backward: bool, settings: MarchSettings) -> None:
        logits = field.logits.clone().requires_grad_() if backward else field.logits
        with torch.set_grad_enabled(backward):
            for name in cameras.names:
                views = render_volume(
                    OccupancyField(logits), lattice, cameras.select((name,)), settings=settings, backend="torch"
                )
                if backward:
                    total(views).backward()

    for stage, backward in (("forward", False), ("forward+backward", True)):
        row = milliseconds(lambda b=backward: splat(b), repeats)
        report.add(section="render", renderer="gsplat", stage=stage, active=active, **row)
        for name, settings in MARCHES.items():
            # Five runs of a renderer that takes ten times as long are as good as thirty.
            other = milliseconds(lambda b=backward, s=settings: march(b, s), max(3, repeats // 6), warm_up=1)
            report.add(section="render", renderer=name, stage=stage, active=active, **other)
            ratio = other["ms"] / row["ms"]
            report.add(section="ratio", renderer="gsplat", baseline=name, stage=stage, active=active, ratio=ratio)


def time_training(report: Report, cameras: Cameras, repeats: int) -> None:
    """A step of the published network (docs/method.md#a to #e) on random images, with either renderer."""
    lattice = Lattice((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), (300, 300, 24), 0.66667)
    points = lattice_geometry.points(lattice)
    torch.manual_seed(0)
    encoder = ImageEncoder("resnet101", 1.0, (512, 256), 64).to(CUDA)
    decoder = VoxelDecoder(64, 32, 3, 4, 18).to(CUDA)
    head = GaussianHead(points, (0.2, 0.2, 0.2), (60.0, 80.0)).to(CUDA)
    cameras = cameras.to(CUDA)
    inputs = replace(
        cameras,
        intrinsics=cameras.intrinsics * torch.tensor([[640 / 320], [384 / 180], [1.0]], device=CUDA),
        width=(640,) * 6,
        height=(384,) * 6,
    )
    plan = plan_lift(inputs, points.to(CUDA))
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4)
    images = torch.rand(1, 6, 3, 384, 640, device=CUDA)
    labels = torch.randint(18, (6, cameras.height[0], cameras.width[0]), device=CUDA)

    def loss(views, which: slice) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(views.features, labels[which]) + 0.01 * views.depth.mean()

    def splat(logits: torch.Tensor) -> None:
        (gaussians,) = head(OccupancyField(logits))
        loss(rasterize(gaussians, cameras, backend="gsplat"), slice(None)).backward()

    def march(logits: torch.Tensor, settings: MarchSettings) -> None:
        for i, name in enumerate(cameras.names):
            views = render_volume(
                OccupancyField(logits), lattice, cameras.select((name,)), settings=settings, backend="torch"
            )
            (loss(views, slice(i, i + 1)) / 6).backward()

    def step(bias: float, render: Callable[[torch.Tensor], None]) -> None:
        optimiser.zero_grad(set_to_none=True)
        volume = lift_features(encoder(images)[0], plan)[None]
        logits = decoder(volume)
        # The renderer's graph is freed camera by camera; the network's follows from the logits' gradient.
        shift = torch.zeros(18, 1, 1, 1, device=CUDA)
        shift[-1] = bias
        leaf = (logits.detach() + shift).requires_grad_()
        render(leaf)
        logits.backward(leaf.grad)
        optimiser.step()

    for bias in FREE_BIASES:
        base = milliseconds(lambda b=bias: step(b, splat), repeats)
        report.add(section="training step", renderer="gsplat", free_bias=bias, **base)
        march_published = milliseconds(
            lambda b=bias: step(b, lambda logits: march(logits, DEFAULT_MARCH)), max(3, repeats // 6), warm_up=1
        )
        report.add(section="training step", renderer="volume, published samples", free_bias=bias, **march_published)
        ratio = march_published["ms"] / base["ms"]
        report.add(section="ratio", renderer="gsplat", stage="training step", free_bias=bias, ratio=ratio)


def build_kernels(report: Report) -> None:
    """The first call, which compiles; intermediate objects are removed, so that $OUT holds few files."""
    grid = VoxelGrid(shape=(16, 16, 8))
    start = time.perf_counter()
    rasterize(street(grid, 1.0, 18, 0).to(CUDA), surround(64, 48).to(CUDA), backend="gsplat")
    torch.cuda.synchronize()
    report.add(section="gsplat's first call", seconds=time.perf_counter() - start)
    for leftover in Path(os.environ["TORCH_EXTENSIONS_DIR"]).glob("gsplat_cuda/*.o"):
        leftover.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--active", type=float, nargs="+", default=[0.09, 0.2, 1.0], help="share of occupied voxels")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 180], metavar=("W", "H"))
    parser.add_argument("--grid", type=int, nargs=3, default=[300, 300, 24], metavar=("X", "Y", "Z"))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-training", action="store_true", help="leave the training step out")
    parser.add_argument("--json", type=Path, help="default: gpu.json in $OUT, or in benchmarks/results")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: this benchmark needs one; benchmarks/render.py is the one for the CPU")
    folder = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results")
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(folder / "torch_extensions"))
    os.environ.setdefault("MAX_JOBS", str(min(16, os.cpu_count() or 1)))
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "{}.{}".format(*torch.cuda.get_device_capability()))
    if reason := gpu.why_not():
        sys.exit(reason)

    shapes = {"grid": arguments.grid, "cameras": 6, "image": arguments.size, "features": 18}
    report = Report(arguments.json or folder / "gpu.json", shapes)
    report.section("gsplat's first call", lambda: build_kernels(report))
    grid = VoxelGrid(voxel_size=80.0 / arguments.grid[0], shape=tuple(arguments.grid))
    cameras = surround(*arguments.size)
    for active in arguments.active:
        gaussians = street(grid, active, 18, arguments.seed)
        report.section("gsplat against cpu", lambda a=active, g=gaussians: check_images(report, g, cameras, a))
        report.section(
            "render", lambda a=active, g=gaussians: time_renderers(report, g, grid, cameras, a, arguments.repeats)
        )
    if not arguments.no_training:
        report.section("training step", lambda: time_training(report, cameras, max(6, arguments.repeats // 3)))
    print(f"written to {report.path}")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
