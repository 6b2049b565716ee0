# SPDX-License-Identifier: Apache-2.0
"""Random access to compressed video: which packets must be decoded for the pictures that are wanted, and what is kept.

A picture needs every packet from its keyframe on (`MessageRef.key`, which the index knows). Samples are mostly read in
order of time, so a decoder goes on from where it is if that is nearer, and the last pictures are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gaussianocc_core.bags.message_ref import MessageRef
from gaussianocc_core.bags.video import Undecodable, VideoDecoder, VideoError, VideoPicture

_PICTURE_BYTES = 1 << 26  # of pictures that are kept: samples share most of theirs with the one before
_GAP_NS = 100_000_000  # runs no farther apart are read in one pass

Decoded = VideoPicture | Undecodable


@dataclass
class Run:
    """Packets of one topic of video to be decoded one after another, for the pictures that are wanted of them."""

    topic: str
    begin: tuple[int, int]  # log time and place of the first packet
    afresh: bool  # it is a keyframe, and the decoder begins anew; else the decoder goes on
    wanted: dict[tuple[int, int], MessageRef]
    last: tuple[int, int]  # of the wanted

    def needs(self, at: tuple[int, int]) -> bool:
        """Whether this packet is the next of the run; earlier ones of its topic are passed over."""
        return at >= self.begin if self.afresh else at > self.begin


class Videos:
    """Decodes the video of one bag: a decoder per topic, which goes on where it can and else begins at a keyframe."""

    def __init__(self) -> None:
        self._decoders: dict[str, VideoDecoder] = {}
        self._fed: dict[str, tuple[int, int]] = {}  # topic -> the newest packet that its decoder has
        self._kept: OrderedDict[MessageRef, VideoPicture] = OrderedDict()
        self._bytes = 0

    def recall(self, refs: Sequence[MessageRef]) -> dict[MessageRef, Decoded]:
        """Those that are still kept."""
        found: dict[MessageRef, Decoded] = {}
        for ref in refs:
            if ref in self._kept:
                self._kept.move_to_end(ref)
                found[ref] = self._kept[ref]
        return found

    def plan(self, refs: Sequence[MessageRef]) -> list[Run]:
        """In order of time; runs of one topic have no packets in common."""
        runs: list[Run] = []
        for ref in sorted(set(refs), key=lambda ref: (ref.topic, ref.log_ns, ref.place)):
            here = (ref.log_ns, ref.place)
            assert ref.key is not None
            before = runs[-1] if runs and runs[-1].topic == ref.topic else None
            if before is not None and before.last >= ref.key:
                before.wanted[here], before.last = ref, here
                continue
            fed = self._fed.get(ref.topic) if before is None else None
            goes_on = fed is not None and ref.key <= fed < here
            runs.append(Run(ref.topic, fed if goes_on and fed else ref.key, not goes_on, {here: ref}, here))
        return sorted(runs, key=lambda run: run.begin)

    def feed(self, run: Run, at: tuple[int, int], message: Any, found: dict[MessageRef, Decoded]) -> None:
        """The next packet of a run."""
        decoder = self._decoders.get(run.topic)
        if decoder is None:
            decoder = self._decoders[run.topic] = VideoDecoder()
        if run.afresh and at == run.begin:
            decoder.restart()
        self._fed[run.topic] = at
        ref = run.wanted.get(at)
        try:
            pictures = decoder.feed(message, ref)
        except VideoError as error:
            pictures = []
            if ref is not None:
                found[ref] = Undecodable(str(error))
        self._take(pictures, found)
        if at == run.last and any(each not in found for each in run.wanted.values()):
            self._finish(run, decoder, found)

    def _finish(self, run: Run, decoder: VideoDecoder, found: dict[MessageRef, Decoded]) -> None:
        """Pictures that the stream's order holds back: the decoder gives them, and cannot go on afterwards."""
        reason = "its decoder has no picture for it: a packet before it is missing or damaged"
        try:
            self._take(decoder.drain(), found)
        except VideoError as error:
            reason = str(error)
        self._fed.pop(run.topic, None)
        for ref in run.wanted.values():
            found.setdefault(ref, Undecodable(reason))

    def _take(
        self,
        pictures: list[tuple[MessageRef | None, VideoPicture]],
        found: dict[MessageRef, Decoded],
    ) -> None:
        for ref, picture in pictures:
            if ref is None:
                continue
            found[ref] = self._kept[ref] = picture
            self._bytes += picture.nbytes
        while self._bytes > _PICTURE_BYTES and self._kept:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def lose(self, topic: str) -> None:
        """A packet of it cannot be read."""
        if topic in self._decoders:
            self._decoders[topic].lose("a message before it is damaged, and no keyframe has come since")

    def forget(self) -> None:
        """After a run that was broken off."""
        self._fed.clear()


def together(runs: list[Run]) -> Iterator[list[Run]]:
    """Runs in order of their begin, those together that one pass serves."""
    group: list[Run] = []
    end = 0
    for run in runs:
        if group and run.begin[0] - end > _GAP_NS:
            yield group
            group, end = [], 0
        group.append(run)
        end = max(end, run.last[0])
    if group:
        yield group
