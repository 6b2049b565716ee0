# SPDX-License-Identifier: Apache-2.0
"""Which samples a step sees: every one once an epoch, or recordings mixed by share.

A network that goes on with a new recording alone forgets the old ones, and one small new recording among many old ones
is hardly seen. So a share can be named for recordings, `data.shares`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from gaussianocc_core.errors import ConfigError
from gaussianocc_core.names import shorten


@dataclass(frozen=True)
class Group:
    """Recordings that have a share of their own, or all that have none."""

    name: str  # the pattern; "": the rest
    members: tuple[int, ...]  # indices of samples
    quota: int  # samples of an epoch


def mix(scenes: Sequence[str], shares: Mapping[str, float]) -> tuple[Group, ...]:
    """Groups of the samples by what their recordings are called.

    scenes: the recording of each sample; shares: pattern of names (`monday`, `2026-11-*`) -> share of an epoch, which
    has as many samples as there are. What is left goes to the recordings that no pattern names, evenly by sample; where
    there are none, shares are taken in proportion. A name counts for the first pattern that it fits. (): no shares.
    ConfigError for a pattern that fits nothing, and where nothing is left for the rest.
    """
    if not shares:
        return ()
    members: dict[str, list[int]] = {pattern: [] for pattern in (*shares, "")}
    group_of = {scene: next((p for p in shares if fnmatch.fnmatchcase(scene, p)), "") for scene in set(scenes)}
    for index, scene in enumerate(scenes):
        members[group_of[scene]].append(index)
    rest = 1.0 - sum(shares.values())
    for pattern in shares:
        if not members[pattern]:
            raise ConfigError(
                f"data.shares: no recording to train on is named {shorten(pattern)} (or another pattern before it fits "
                f"it too); there are {shorten(', '.join(sorted(group_of)))}"
            )
    if members[""] and rest < 1e-6:
        left = sorted(scene for scene, pattern in group_of.items() if not pattern)
        raise ConfigError(
            f"data.shares: they leave nothing for {shorten(', '.join(left))}; lower them, or choose recordings by "
            "data.scenes"
        )
    wanted = {**shares, "": rest if members[""] else 0.0}
    scale = len(scenes) / sum(wanted.values())
    # At least one: a share that rounds to nothing would be left out without a word.
    return tuple(
        Group(name, tuple(members[name]), max(1, round(scale * wanted[name]))) for name in wanted if members[name]
    )


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Keys of the batches of one process, for ever, from any step on.

    A global step takes `accumulation * processes * batch_size` samples in a row of each epoch's permutation; the rest
    of an epoch that fills no step is left out. Processes and accumulation share them in the same order, so two
    processes see what one sees with accumulation 2.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        batch_size: int = 1,
        accumulation: int = 1,
        rank: int = 0,
        processes: int = 1,
        first_step: int = 0,
        mixture: Sequence[Group] = (),
    ) -> None:
        """count: samples there are; mixture: which of them an epoch holds how often, see `mix`; (): each once."""
        self.per_step = batch_size * accumulation * processes
        self.count, self.seed, self.first_step = max(count, self.per_step), seed, first_step
        self.samples, self.batch_size, self.accumulation = count, batch_size, accumulation
        self.rank, self.processes, self.mixture = rank, processes, tuple(mixture)

    @property
    def steps_per_epoch(self) -> int:
        return self.count // self.per_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.first_step
        while True:
            epoch, within = divmod(step, self.steps_per_epoch)
            order = self._order(epoch)
            for each in range(within, self.steps_per_epoch):
                for turn in range(self.accumulation):
                    start = each * self.per_step + (turn * self.processes + self.rank) * self.batch_size
                    yield [(epoch, int(index)) for index in order[start : start + self.batch_size]]
                step += 1

    def _order(self, epoch: int) -> np.ndarray:
        """(count,) samples of an epoch."""
        random = np.random.default_rng([self.seed, epoch])
        if not self.mixture:
            return random.permutation(self.count) % self.samples
        drawn = [np.zeros(0, int)]
        for group in self.mixture:
            rounds = -(-group.quota // len(group.members))
            drawn.append(np.concatenate([random.permutation(group.members) for _ in range(rounds)])[: group.quota])
        order = random.permutation(np.concatenate(drawn))
        return np.resize(order, max(self.count, len(order)))
