# SPDX-License-Identifier: Apache-2.0
"""Our own run of everything a golden directory recorded, from its images and regenerated weights alone.

No recorded result is an input, so every stage is measured with all the stages before it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry import lattice as lattice_geometry
from gaussianocc_core.geometry import transforms
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.gaussian_head import GaussianHead
from gaussianocc_core.models.gaussianocc import GaussianOcc, build_model, build_pose_net, render_gaussians
from gaussianocc_core.models.lifting import lift_features
from gaussianocc_core.models.pose_net import EgoMotion, PoseNet, camera_motions
from gaussianocc_core.models.quirks import Quirks
from gaussianocc_core.reference.golden import Golden, checksum
from gaussianocc_core.reference.names import NETWORKS, OCCUPANCY, POSE, their_name
from gaussianocc_core.reference.release import fill_networks
from gaussianocc_core.types import Cameras, Gaussians, Lattice, OccupancyField, RenderedViews

NEIGHBOURS = ("m1", "p1")  # frames -1 and +1


class Pipeline:
    """Each property is one stage, computed when it is first asked for."""

    def __init__(self, golden: Golden, reference: ModelConfig) -> None:
        """reference: the published architecture; the directory's own sizes, grid and classes replace its."""
        self.golden = golden
        config = golden.config
        low, high = config.range_xyz[0::2], config.range_xyz[1::2]
        Z, Y, X = config.grid_zyx
        self.lattice = Lattice(low, high, (X, Y, Z), config.contraction_ratio)
        self.far_radius = (1.5 * high[0], config.max_depth)  # docs/method.md#e: 60 and 80 m
        self.config = replace(
            reference,
            image_height=config.image_hw[0],
            image_width=config.image_hw[1],
            lattice=self.lattice,
            gaussians=replace(reference.gaussians, far_radius=self.far_radius),
            class_names=tuple(f"class_{k}" for k in range(config.num_classes)),
            quirks=replace(reference.quirks, depth_range=(config.min_depth, config.max_depth)),
        )

    @property
    def quirks(self) -> Quirks:
        return self.config.quirks

    # ---- inputs and weights ----------------------------------------------------------------------------------------

    def input(self, name: str) -> Tensor:
        """An array of inputs.npz."""
        array = self.golden.array("inputs", name)
        if array is None:
            raise DatasetError(f"{self.golden.folder / 'inputs.npz'}: has no {name}; a golden directory needs it")
        return torch.from_numpy(array)

    @cache  # noqa: B019  one pipeline lives as long as its report
    def images(self, frame: str) -> Float[Tensor, "1 N 3 H W"]:
        """RGB 0-1 of frame t0, tm1 or tp1."""
        return self.input(f"image_{frame}")[None].float() / 255.0

    def cameras(self, intrinsics: str, size_hw: tuple[int, int]) -> Cameras:
        """The rig with one of the recorded 4x4 intrinsics, of which only focal lengths and principal point count."""
        K = self.input(intrinsics)
        plain = torch.eye(3).repeat(len(K), 1, 1)
        for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)):
            plain[:, row, column] = K[:, row, column]
        count = len(K)
        names = self.golden.config.cameras
        return Cameras(names, plain, self.input("cam_to_ego"), (size_hw[1],) * count, (size_hw[0],) * count)

    @property
    def network_cameras(self) -> Cameras:
        return self.cameras("K", self.golden.config.image_hw)

    @property
    def render_cameras(self) -> Cameras:
        return self.cameras("K_render", self.golden.config.render_hw)

    @cached_property
    def checksums(self) -> dict[str, dict[str, int]]:
        """CRC-32 of the regenerated tensors by their released names."""
        return {
            network: {name: checksum(value.numpy()) for name, value in state.items() if value.is_floating_point()}
            for network, state in self.states.items()
        }

    @cached_property
    def states(self) -> dict[str, dict[str, Tensor]]:
        """Regenerated state dicts as a release holds them, without the dead entries."""
        states: dict[str, dict[str, Tensor]] = {network: {} for network in NETWORKS}
        for ours, network in ((OCCUPANCY, self._fresh[0]), (POSE, self._fresh[1])):
            for name, value in network.state_dict().items():
                source = their_name(name, ours)
                if value.is_floating_point():
                    drawn = self.golden.weights.tensor(source.network, source.name, tuple(value.shape))
                    states[source.network][source.name] = torch.from_numpy(drawn)
                else:  # num_batches_tracked
                    states[source.network][source.name] = torch.zeros(value.shape, dtype=value.dtype)
        return states

    @cached_property
    def _fresh(self) -> tuple[GaussianOcc, PoseNet]:
        return build_model(self.config), build_pose_net(self.config)

    @cached_property
    def _networks(self) -> tuple[GaussianOcc, PoseNet]:
        model, pose_net = self._fresh
        fill_networks({OCCUPANCY: model, POSE: pose_net}, self.states, "regenerated weights")
        return model, pose_net

    @property
    def model(self) -> GaussianOcc:
        return self._networks[0]

    @property
    def pose_net(self) -> PoseNet:
        return self._networks[1]

    # ---- the network -----------------------------------------------------------------------------------------------

    @cached_property
    def _encoded(self) -> tuple[Tensor, Tensor]:
        kept: list[Tensor] = []
        hook = self.model.image_encoder.layer3.register_forward_hook(lambda _, __, output: kept.append(output))
        features = self.model.image_encoder(self.images("t0"))[0]
        hook.remove()
        return features, kept[0]

    @property
    def features(self) -> Float[Tensor, "N C h w"]:
        return self._encoded[0]

    @property
    def layer3(self) -> Float[Tensor, "N C h w"]:
        return self._encoded[1]

    @cached_property
    def lifted(self) -> Float[Tensor, "C X Y Z"]:
        return lift_features(self.features, self.model.plan(self.network_cameras))

    @cached_property
    def field(self) -> OccupancyField:
        volume = self.lifted[None].contiguous(memory_format=torch.channels_last_3d)
        return OccupancyField(self.model.voxel_decoder(volume).contiguous())

    # ---- Gaussians and views ---------------------------------------------------------------------------------------

    @cache  # noqa: B019
    def gaussians(self, scale: float) -> Gaussians:
        """scale: standard deviation near the ego vehicle, m."""
        head = GaussianHead(lattice_geometry.points(self.lattice), (scale,) * 3, self.far_radius)
        return head(self.field)[0]

    @cache  # noqa: B019
    def views(self, scale: float, horizontal_focal: bool = True) -> RenderedViews:
        """Splatted images; horizontal_focal: with the published vertical footprint size."""
        quirks = self.quirks
        quirks = replace(quirks, raster=replace(quirks.raster, horizontal_focal=horizontal_focal))
        return render_gaussians(self.gaussians(scale), self.render_cameras, quirks, quirks.normalize_depth)

    # ---- ego motion ------------------------------------------------------------------------------------------------

    @cache  # noqa: B019
    def motion(self, neighbour: str) -> EgoMotion:
        """Between frame 0 and a neighbour, in temporal order."""
        frames = ("tm1", "t0") if neighbour == "m1" else ("t0", "tp1")
        return self.pose_net(self.images(frames[0]), self.images(frames[1]))

    def camera_motion(self, neighbour: str) -> Float[Tensor, "N 4 4"]:
        """Points of each camera's frame now in its frame at the neighbour's moment."""
        T_later_earlier = self.motion(neighbour).T_later_earlier()[0]
        T_neighbour_now = transforms.invert(T_later_earlier) if neighbour == "m1" else T_later_earlier
        return camera_motions(T_neighbour_now, self.input("cam_to_ego"))
