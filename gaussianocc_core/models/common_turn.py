# SPDX-License-Identifier: Apache-2.0
"""By how much the present pose is turned off, found once for all the earlier sets that it is matched with.

Odometry that is a degree off is off against every earlier set alike. Between sets near each other, other depths
explain a turn as well, so that the earliest sets are asked, until two say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gaussianocc_core.geometry.transforms import invert, take_share
from gaussianocc_core.models.matching import Pairs
from gaussianocc_core.models.matching_net import VIEW_STRIDES, reference_features
from gaussianocc_core.models.motion_refinement import PairCameras, RefinementSettings, degrees, refine_turn


@dataclass(frozen=True)
class CommonTurnSettings:
    """What is asked how often, and believed."""

    same: float = 0.5  # degrees; two sets that correct the present pose by what differs by less say the same
    trusted: int = 3  # odometry that the images agreed with twice is asked again at every so many sets
    least: float = 0.3  # degrees; odometry is believed rather than images that say that all is off by less
    refinement: RefinementSettings = field(default_factory=RefinementSettings)


@dataclass(frozen=True)
class EarlierPairs:
    """Pairs of present cameras with those of one earlier set."""

    pairs: Pairs  # `source` counts the set's own cameras; `matrix` is not made yet
    source: Int64[Tensor, " P"]  # counts all maps
    cameras: PairCameras
    T_now_then: Float[Tensor, "4 4"]
    features: Float[Tensor, "N C h w"]  # of the set


class CommonTurn:
    """Remembers whether the motion that it was given was right of late. Not for several threads at once."""

    def __init__(self, settings: CommonTurnSettings = CommonTurnSettings()) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Forgets all; after a jump of time, another rig, another place."""
        self._right = self._unasked = 0  # sets in a row whose motion the images agreed with; since that was looked at

    def find(
        self,
        features: Float[Tensor, "N C h w"],
        earlier: Sequence[EarlierPairs],
        inv_depths: Float[Tensor, " D"],
    ) -> tuple[list[Float[Tensor, "4 4"]], Float[Tensor, "4 4"] | None]:
        """How the motion from each of the earlier sets is corrected, and how that from any other; None: not known.

        features: of the present set; earlier: the newest first; inv_depths: planes, 1/m. A correction is a rotation of
        the present ego frame, see `motion_refinement`.
        """
        none = torch.eye(4, dtype=torch.float64)
        settings = self.settings
        self._unasked += 1
        trusted = self._right > 1 and self._unasked < settings.trusted
        if not earlier or not settings.refinement.yaw or trusted:
            return [none] * len(earlier), none
        self._unasked = 0
        said, common = self._ask(reference_features(features), earlier, inv_depths)
        self._right = 0 if any(degrees(turn) for turn in said.values()) else self._right + 1
        if len(earlier) == 1:
            return [said[0]], said[0]
        if common is None:
            return [said[k] for k in range(len(earlier))], None
        if degrees(common) < settings.least:
            common = none
        # A set that says something else has a pose that is off by itself; one that says nothing has not seen enough.
        own = {k for k, turn in said.items() if degrees(turn) and degrees(invert(common) @ turn) > settings.same}
        return [said[k] if k in own else common for k in range(len(earlier))], common

    def _ask(
        self, references: Tensor, earlier: Sequence[EarlierPairs], inv_depths: Tensor
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """What the earliest sets say, one after the other until two agree, and what they agree on; by place."""
        said: dict[int, Tensor] = {}
        for k in reversed(range(len(earlier))):
            each = earlier[k]
            turn = refine_turn(
                references,
                each.features,
                each.pairs,
                each.cameras,
                each.T_now_then,
                inv_depths,
                VIEW_STRIDES,
                self.settings.refinement,
            )
            common = None
            for other in said.values():
                apart = invert(other) @ turn
                if degrees(apart) < self.settings.same:
                    common = other @ take_share(apart, apart.new_tensor(0.5))
            said[k] = turn
            if common is not None:
                return said, common
        return said, None
