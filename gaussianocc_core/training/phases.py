# SPDX-License-Identifier: Apache-2.0
"""What stage 1 learns when: first motion alone, then depth with it, then their scale too, at last depth alone.

Fresh weights explain two frames best by no motion and endless depth, and stay there. So motion learns first, against
the depth that fresh weights say: where that is the ground's it is metric, and so is the motion that explains it.
Nothing else may move that depth meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gaussianocc_core.training.config import GspConfig


@dataclass(frozen=True)
class Phase:
    """Of one moment of a run."""

    motion_alone: bool
    # There is structure, so that depth may say how far the rig went, and the common scale learns. Of a depth that
    # follows motion and a motion that follows it, both would shrink to nothing.
    established: bool
    refining: bool  # motion and scale stay as they are, and the cross-view loss is off
    recorded: bool = False  # the motion is known, and nothing need wait for it

    @property
    def learns_motion(self) -> bool:
        return not self.refining

    @property
    def learns_scale(self) -> bool:
        return self.established and not self.refining


KNOWN_MOTION = Phase(motion_alone=False, established=True, refining=False, recorded=True)


def phase_at(config: GspConfig, progress: float) -> Phase:
    """progress: share of the run that is done, 0-1."""
    return Phase(
        motion_alone=progress < config.motion_share,
        established=progress >= config.search_at,
        refining=progress >= 1.0 - config.refine_share,
    )


def fit_to_run(config: GspConfig, steps: int) -> GspConfig:
    """With the shares of a run of so many steps: in a short one motion learns for more of it, up to two fifths."""
    if not config.motion_share:  # from weights that know motion
        return config
    motion = max(config.motion_share, min(config.motion_steps / steps, 0.4))
    return replace(config, motion_share=motion, search_at=max(config.search_at, min(1.5 * motion, 0.6)))


def scale_search_began(config: GspConfig, step: int, steps: int) -> int | None:
    """The first step of the search for the scale that this step belongs to: once there is structure, and at the end."""
    windows = (int(config.search_at * steps), steps - config.search_batches)
    return next((start for start in windows if start <= step < start + config.search_batches), None)
