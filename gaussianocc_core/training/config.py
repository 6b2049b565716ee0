# SPDX-License-Identifier: Apache-2.0
"""Settings of a training run, whichever stage it is.

What nobody has a reason to turn is a constant beside the code that uses it. `RETIRED` are those that were settings
once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gaussianocc_core.data.sources import DataConfig
from gaussianocc_core.geometry.overlap import OverlapSettings
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.view_choice import ViewSettings
from gaussianocc_core.training.hints import HintSettings
from gaussianocc_core.training.matched import ViewDropout
from gaussianocc_core.training.motion_search import MotionSearch
from gaussianocc_core.training.photometric import Photometric
from gaussianocc_core.training.precision import PRECISIONS
from gaussianocc_core.training.stereo import StereoSettings

STAGES = ("gsp", "gsv", "pretrain")
SCHEDULES = ("one_cycle", "step")
EGO_MOTIONS = ("learned", "auto", "sensor", "joint")
MOTIONS_OF_STAGE_1 = ("auto", "learned", "sensor")
RENDERERS = ("splat", "volume")


@dataclass(frozen=True)
class GspConfig:
    """Stage 1. Values that the paper does not state are ours; docs/training.md lists the differences."""

    # "learned": from images alone, as published. "sensor": by the recorded poses. "auto": by them where a sample has
    # them and the images agree, else learnt. Recorded motion teaches the ego-motion network too.
    ego_motion: str = "auto"
    temporal: Photometric = field(default_factory=lambda: Photometric(ssim_weight=1.0, l1_weight=0.15, levels=4))
    cross: Photometric = field(default_factory=lambda: Photometric(ssim_weight=1.0, l1_weight=0.15, auto_mask=False))
    # A shared pixel weighs ten times as much as another: a tenth of them is shared, and their mean counts.
    cross_weight: float = 0.3  # 0: without the cross-view splatting
    mask_overlap: bool = True  # False: every pixel is splatted into every camera, so that each view draws itself
    # Cameras of a set fire one after another while the robot moves: the learnt motion places each where it was.
    # Without (as published) scale is wrong by the share that this has of the distance between the cameras.
    place_by_motion: bool = True
    overlap: OverlapSettings = field(default_factory=OverlapSettings)
    views: ViewDropout = field(default_factory=ViewDropout)  # of a network that matches
    hints: HintSettings = field(default_factory=HintSettings)
    stereo: StereoSettings = field(default_factory=StereoSettings)
    length_search: MotionSearch = field(default_factory=MotionSearch)  # of how far the rig went
    # Depth and motion may shrink together; over time nothing resists. The height of the cameras over the ground does:
    # motion must explain the ground at its own depth too. Without effect where `model.depth.ground` is 0 (published).
    anchor_weight: float = 1.0
    smoothness: float = 1e-3
    motion_share: float = 0.08  # of the run, in which only motion is learnt
    motion_steps: int = 150  # but no fewer: it takes as many to find its length, however short the run
    # Once there is structure, after this share, lengths are searched and hints weigh in full. Then, and again at the
    # end of the run, the common factor of depth and motion is searched by the cross-view error, unless the ground is
    # where the base frame says (`model.depth.metric_ground`). Before, the factor stays: while most depth is wrong, near
    # fits best.
    search_at: float = 0.25
    search_factor: float = 3.0  # from 1/3 to 3 times what the depth network says; 1: no search
    search_batches: int = 12
    refine_share: float = 0.2  # last share of the run: motion fixed, cross-view loss off; published: 2 of 10 epochs

    RETIRED: ClassVar[dict[str, Any]] = {
        "anchor": {"ssim_weight": 1.0, "l1_weight": 0.15, "levels": 2, "auto_mask": True},
        "early_hints": 0.15,
        "search_steps": 33,
        "search_cost": 0.2,
    }

    def __post_init__(self) -> None:
        if self.ego_motion not in MOTIONS_OF_STAGE_1:
            raise ValueError(f"gsp.ego_motion: expected one of {MOTIONS_OF_STAGE_1}, got {self.ego_motion!r}")
        if self.motion_steps < 0:
            raise ValueError(f"gsp.motion_steps: expected 0 or more, got {self.motion_steps}")


@dataclass(frozen=True)
class GsvConfig:
    """Stage 2; defaults are ours for `tiny`. Published weights (docs/method.md#k): config/train/gsv_published.yaml."""

    # By the frozen first stage; "sensor": poses of the recording; "auto": these, and learned where there are none;
    # "joint": learnt along.
    ego_motion: str = "learned"
    renderer: str = "splat"  # or "volume": ray marching, the published `render_type: prob`
    # Where the depth head is the first stage's, it says how far the learnt motion went.
    length_search: MotionSearch = field(default_factory=MotionSearch)
    views: ViewDropout = field(default_factory=ViewDropout)  # of a network that matches
    # Image encoder and depth head begin with the weights of `first_stage`, or of `decoder_from` where that has none.
    start_from_first_stage: bool = True
    # And keep them: what a fresh decoder sends back undoes in hundreds of steps what depth learnt in thousands. Only
    # the projection of the features learns then, and the depth head needs no losses. Published: neither.
    freeze_first_stage: bool = True
    # Model file whose occupancy network the decoder begins with: a path, or the bare name of weights that ship
    # (`tiny`). "": that of `first_stage`, where it holds one that fits; else fresh weights.
    decoder_from: str = ""
    cameras_per_step: int = 0  # rendered and compared, drawn anew for each sample; 0: all, as published
    render_height: int = 48  # of the rendered images, pixels; published: 180 of 384
    render_width: int = 88
    # Cross-entropy with the labels in 3D of `data.occupancy`, where those are given. They say what rendering says in
    # the mean along a ray only; with them alone (rendering: false) nothing is rendered.
    labels: float = 1.0
    rendering: bool = True
    photometric: Photometric = field(default_factory=Photometric)
    smoothness: float = 1e-3
    semantic: float = 0.1  # published: 0.02
    entropy: float = 0.1  # on the Gaussians' opacities; without labels always 0 (it would win)
    variation: float = 0.002  # of all logits; published: 0.1; without labels always 0
    # Of volume rendering alone, and without labels always 0; published: 0.01 each, and jitter. Rays are marched once
    # more for the first two.
    ray_entropy: float = 0.0  # of a ray's summed weights
    ray_distortion: float = 0.0  # of how its weights spread, m
    ray_jitter: bool = False  # samples of a ray are moved by up to a tenth of their distance, drawn anew each time
    head: float = 1.0  # weight of the same photometric error on the depth head, where the model has one
    # Of the depth head, with the weight above, where it learns; beside the photometric error, not instead of it.
    hints: HintSettings = field(default_factory=lambda: HintSettings(weight=0.3))
    agreement: float = 0.1  # difference of log depths, rendered and the depth head's; published: no such term
    surface: float = 0.3  # cross-entropy of opacity with what the depth head sees to be occupied, free; published: none
    reach: float = 20.0  # m to which the depth of what stands up is good enough for voxels
    thickness: float = 1.0  # m behind what stands up that count as occupied too, half as much; 0: the surface alone
    background_depth: float = 80.0  # m, of what rays find that leave the lattice; 0: nothing (published)

    RETIRED: ClassVar[dict[str, Any]] = {
        "photometric_weight": 1.0,  # what the other weights are measured against
        "occupied_weight": 1.5,
        "background_logit": 5.0,
    }

    def __post_init__(self) -> None:
        for name, allowed in (("ego_motion", EGO_MOTIONS), ("renderer", RENDERERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"gsv.{name}: expected one of {allowed}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class PretrainConfig:
    """Depth by matching on clips of synthetic truth: shipped starting weights, see docs/training.md."""

    clips: str = ""  # folder of tools/make_clips.py
    views: ViewSettings = field(default_factory=ViewSettings)
    dropout: ViewDropout = field(default_factory=ViewDropout)
    motion_error: float = 0.5  # share of the clips whose motion errs
    length_error: float = 0.03  # standard deviation, as a share
    # Standard deviations, degrees: of the turn between sets, which is made exact by the images before views are used
    # (`motion_refinement`), and of each camera's calibration.
    turn_error: float = 0.1
    calibration_error: float = 0.04
    # The ground is not where the base frame says: roads are cambered and hilly, robots pitch and sink.
    tilt_error: float = 1.3  # standard deviation of roll and pitch, degrees
    height_error: float = 0.04  # m
    planes_weight: float = 0.1  # of the cross entropy over planes
    error_weight: float = 0.3  # of the likelihood of the error
    sky_weight: float = 0.15
    freeze_norms_at: float = 0.25  # share of the run, from which on batch norms keep their statistics


@dataclass(frozen=True)
class TrainConfig:
    stage: str = "gsp"  # "gsp": depth, ego motion, scale; "gsv": occupancy; "pretrain": depth, from truth
    # gsv: model file of a gsp run, for ego motion and to start from, or of a gsv run to go on from; gsp: weights to go
    # on from. A path, or the bare name of weights that ship with the package (`tiny_matching`, `tiny`).
    first_stage: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    gsp: GspConfig = field(default_factory=GspConfig)
    gsv: GsvConfig = field(default_factory=GsvConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    output: str = ""  # run folder; "": runs/<name of the configuration file>
    device: str = "auto"
    seed: int = 0
    steps: int = 2000  # of the optimiser
    batch_size: int = 1  # samples at a time and process; a sample is all cameras of a moment and its neighbours
    accumulation: int = 1  # batches per step
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1e-3  # of what sees images
    weight_decay: float = 0.01
    schedule: str = "one_cycle"  # a short rise, then down to a hundredth; "step": a tenth near the end, as published
    clip_norm: float = 1.0  # of all gradients; 0: no clipping, as published
    # Steps that see one sample: the statistics that inference uses average over some thirty of them.
    norm_momentum: float = 0.03
    precision: str = "fp32"  # of the networks; geometry and losses are always fp32
    # Stage 1: a run whose depth and motion shrink together, or leave what cameras and odometry measure, ends at once.
    stop_on_collapse: bool = True
    # Stage 1 that goes on from weights, with `data.left_out`: where they were better on what was left out,
    # model.safetensors holds them at the end, and trained.safetensors what was learnt.
    keep_better: bool = True
    save_every: int = 250  # steps between checkpoints
    pictures_every: int = 250  # steps between TensorBoard pictures; 0: none
    half_weights: bool = True  # 16 bits in the model file
    note: str = ""  # one line for the model card; "": what the stage is

    RETIRED: ClassVar[dict[str, Any]] = {"drop_at": 10 / 12, "sync_norm": True}

    def __post_init__(self) -> None:
        if self.stage == "joint":
            raise ValueError("stage: joint training is stage=gsv with gsv.ego_motion=joint")
        for name, allowed in (("stage", STAGES), ("precision", tuple(PRECISIONS)), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {allowed}, got {getattr(self, name)!r}")
        if self.stage == "pretrain" and self.batch_size != 1:
            raise ValueError(f"batch_size: clips differ in size, so 1 with accumulation, got {self.batch_size}")
        for name in ("steps", "batch_size", "accumulation", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {self.seed}")
