"""Vamp on: rounds that feed on each other, each a new take of the one before, as a tree that can be gone back in and branched.

A round is made from the tokens of its parent, so what stays is passed on exactly and nothing wears out by being coded again.
Loudness, stereo image and length are those of the source in every round; so the rounds of a loop are rings of equal length,
and may follow each other at the seam. Every round is a bundle in a folder of its own, and is read when it is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vampnet import audio, bundle, loops, metadata
from vampnet.config import MOST, Prompt, Sampling, whole_seed
from vampnet.packed_mask import PackedMask
from vampnet.sentences import Sentence
from vampnet.vamp import Clip, Vamp
from vampnet.whole_file import fitting

if TYPE_CHECKING:
    from audiotools import AudioSignal

    from vampnet.beats import BeatGrid
    from vampnet.pipeline import Cancelled, OnStep, VampNet

SOURCE = 0
"""The number of what the first round is made from."""
DRIFT = (3 - math.sqrt(5)) / 2
"""Share of the period by which the periodic prompt moves a round: by the golden ratio it comes last to where it has been."""
JOINT_SECONDS = 0.02
FADE_SECONDS = 0.003
MAX_EXPORT_SECONDS = audio.MAX_SECONDS
MAX_EVEN_DB = 6.0
NO_NAME = r"[\\/:*?\"<>|\0]"
"""What a file's name cannot have in it somewhere."""


@dataclass(frozen=True)
class Round:
    """One round of a journey.

    Attributes:
        number: from 1, in the order in which they were made.
        parent: number of the round that it was made from; `SOURCE` for the first.
        path: from the source to here: at each step, which of the rounds made there, from 0.
        seed: its own, from (seed of the journey, path).
        prompt, sampling: as asked for.
        folder: its bundle.
        sound: the sound file of its take.
    """

    number: int
    parent: int
    path: tuple[int, ...]
    seed: int
    prompt: Prompt
    sampling: Sampling
    folder: Path
    sound: Path


def round_seed(seed: int, path: Sequence[int]) -> int:
    """The seed of the round at `path`, 0..MOST: of the whole way there, so that no two rounds of a journey share one."""
    text = f"{seed}:{'.'.join(map(str, path))}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & MOST


def drifted(prompt: Prompt, depth: int) -> Prompt:
    """The prompt of a round that has `depth` rounds before it.

    A periodic prompt keeps other time steps in every round: with the same ones its first skeleton would stay for ever. The
    first round keeps what was asked for.
    """
    if prompt.periodic < 2:
        return prompt
    step = max(1, round(prompt.periodic * DRIFT))
    return dataclasses.replace(prompt, periodic_offset=(prompt.periodic_offset + depth * step) % prompt.periodic)


class Journey:
    """A tree of rounds. Deterministic: a round depends on the source, the seed, the models, its path and what was asked for
    along it, and on nothing else that was made.

    Args:
        folder: where the bundles go; made if it is missing. Rounds of another journey that are there stay, and the numbers
            of this one begin behind theirs.
        source: anything that `audio.load` takes. It is not changed.
        seed: of the journey, 0..2**31 - 1.
        loop, bars, beats: as in `VampNet.vamp`.
        name: of the source, for people and for the files' names.

    Attributes:
        rounds: {number: Round}.

    Raises:
        ValueError: a seed that is none.
    """

    def __init__(
        self,
        folder: str | Path,
        source: Any,
        *,
        seed: int = 0,
        loop: bool = True,
        bars: int | str | None = None,
        beats: BeatGrid | None = None,
        name: str = "journey",
    ) -> None:
        self.folder, self.source = Path(folder), source
        self.seed, self.loop, self.bars, self.beats, self.name = whole_seed(seed), bool(loop), bars, beats, name
        self.rounds: dict[int, Round] = {}
        self._made = 0
        self._heard: tuple[str, Clip] | None = None
        self._hash = ""

    # ---- the tree -----------------------------------------------------------------------------------------------------

    def path(self, number: int) -> list[Round]:
        """The rounds from the first to `number`, in order; none for `SOURCE`.

        Raises:
            ValueError: there is no such round.
        """
        found: list[Round] = []
        while number != SOURCE:
            if number not in self.rounds:
                raise ValueError(Sentence("There is no round {number} in this journey.", number=number))
            found.append(self.rounds[number])
            number = found[-1].parent
        return found[::-1]

    def children(self, number: int) -> list[Round]:
        """The rounds that were made from `number`, in order."""
        return [found for found in self.rounds.values() if found.parent == number]

    def remove(self, number: int) -> None:
        """Deletes a round, all that was made from it, and their files. ValueError if there is no such round."""
        self._one(number)
        for child in self.children(number):
            self.remove(child.number)
        shutil.rmtree(self.rounds.pop(number).folder, ignore_errors=True)

    def read(self, number: int) -> Vamp:
        """The bundle of a round: its take, and its parent's as the source. ValueError if there is none or it is damaged."""
        return bundle.read_bundle(self._one(number).folder)

    def _one(self, number: int) -> Round:
        """A round itself. ValueError if there is none, as of `SOURCE`."""
        path = self.path(number)
        if not path:
            raise ValueError(Sentence("There is no round {number} in this journey.", number=number))
        return path[-1]

    def rest(self) -> None:
        """Lets go of what is kept in memory between rounds; the next round listens to the source again."""
        self._heard = None

    # ---- a round ------------------------------------------------------------------------------------------------------

    def make(
        self,
        model: VampNet,
        parent: int = SOURCE,
        prompt: Prompt | None = None,
        sampling: Sampling | None = None,
        *,
        mask: Tensor | None = None,
        on_step: OnStep | None = None,
        cancelled: Cancelled | None = None,
    ) -> Round:
        """A new round from `parent`; a second one from the same parent is a branch.

        Args:
            parent: number of a round, or `SOURCE`.
            prompt: what stays of the parent; see `drifted`.
            sampling: how the rest is filled; None = the model's defaults.
            mask: (1, K, T) bool, True = regenerate: instead of the prompt's.
            on_step, cancelled: as in `VampNet.vamp`.

        Raises:
            AudioError, ValueError: as `VampNet.vamp`, or there is no such parent.
            CancelledError: `cancelled()` was True; the journey is as it was.
        """
        prompt, sampling, before = prompt or Prompt(), sampling or model.sampling, self.path(parent)
        clip = self._listen(model, prompt.needs_beats and mask is None, on_step, cancelled)
        given, tokens = self._parent(model, clip, parent)
        path = (*(before[-1].path if before else ()), 1 + max((r.path[-1] for r in self.children(parent)), default=-1))
        seed = round_seed(self.seed, path)
        asked, painted = drifted(prompt, len(before)), mask is not None
        if mask is None:
            mask = model.mask_of_clip(dataclasses.replace(clip, signal=given, tokens=tokens), asked, seed)
        made = model.generate(tokens, mask, sampling, [(seed, 0)], loop=self.loop, on_step=on_step, cancelled=cancelled)
        if on_step is not None:
            on_step("decode", 0, 1)
        # As loud as the parent is: one that kept a gain of its own need not be as loud as the source.
        heard = dataclasses.replace(clip, signal=given, lufs=audio.measure_loudness(given))
        gain = model.kept_gain(heard, tokens, mask, prompt.original_sound)
        stays = mask if prompt.original_sound else None
        take = model.render(dataclasses.replace(clip, signal=given), made, gain, stays, sampling.balance)
        vamp = Vamp(
            given, [take], made, tokens, mask, asked, sampling, seed, self.loop, model.name, model.grid, None, clip.beats,
            painted, precision=model.precision,
        )  # fmt: skip
        number, folder = self._new_folder()
        extra = {
            "title": f"Round {number}", "source_name": self.name, "codec": model.codec_id, "number": number, "parent": parent,
        }  # fmt: skip
        comment = self._comment(prompt, sampling, len(path), model.name, mask if painted else None)
        names = [f"{fitting(re.sub(NO_NAME, '-', self.name).lstrip('.'))}-round{number}-seed{self.seed}"]
        try:
            told = bundle.write_bundle(vamp, folder, "flac", names, extra, comments=[comment])
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._made = number
        self.rounds[number] = Round(number, parent, path, seed, prompt, sampling, folder, folder / told["files"][0])
        if on_step is not None:
            on_step("decode", 1, 1)
        return self.rounds[number]

    def _new_folder(self) -> tuple[int, Path]:
        """The number of the next round, and its folder, which nobody else has."""
        number = max(self._made, *_rounds_in(self.folder)) + 1
        while True:
            folder = self.folder / f"round-{number}"
            try:
                folder.mkdir(parents=True)
                return number, folder
            except FileExistsError:  # of another journey that began it just now
                number += 1

    def _listen(self, model: VampNet, track: bool, on_step: OnStep | None, cancelled: Cancelled | None) -> Clip:
        """The source as the model hears it; kept, since it is the same for all rounds."""
        codec = model.codec_id
        if self._heard is None or self._heard[0] != codec or (track and self._heard[1].beats is None):
            clip = model.listen(
                self.source, loop=self.loop, bars=self.bars, beats=self.beats, track=track, on_step=on_step, cancelled=cancelled
            )  # fmt: skip
            self._heard, self._hash = (codec, clip), metadata.hash_of(clip.signal)
        return self._heard[1]

    def _parent(self, model: VampNet, clip: Clip, number: int) -> tuple[AudioSignal, Tensor]:
        """Sound and tokens that a round is made from. Tokens of another codec mean nothing: the sound is then heard anew."""
        if number == SOURCE:
            return clip.signal, clip.tokens
        vamp = self.read(number)
        if bundle.read_settings(self.rounds[number].folder)["extra"]["codec"] == model.codec_id:
            return vamp.takes[0], vamp.tokens
        heard = audio.load(vamp.takes[0], model.grid.sample_rate, own=True)
        return heard, model.encode(heard, self.loop)

    # ---- all of it in one ---------------------------------------------------------------------------------------------

    def export(self, to: int, *, source: bool = False, repeats: int = 1) -> AudioSignal:
        """The rounds from the first to `to` one after the other, on the beat grid.

        Of a loop, every round is heard whole; of a clip that is none, its whole bars where its beats are known, else all of
        it. Between two rounds the end of the first fades into what leads into the second, so that the second begins untouched
        on the beat and the length is exact. Loudness is evened out and peaks are limited. A journey of loops is a loop itself.

        Args:
            to: number of the last round.
            source: begin with the source itself.
            repeats: how often each is heard.

        Returns:
            AudioSignal (1, C, rounds x repeats x N), N the samples of a round.

        Raises:
            ValueError: no rounds, or more than `MAX_EXPORT_SECONDS` of them.
        """
        path = self.path(to)
        if not path or repeats < 1:
            raise ValueError(Sentence("There is no round to export yet: let the journey go on for one."))
        first = self.read(path[0].number)
        start, end = self._bounds(first)
        parts, rate = len(path) + source, first.source.sample_rate
        if (end - start) * parts * repeats > MAX_EXPORT_SECONDS * rate:
            raise ValueError(Sentence(
                "One file holds at most {minutes:.0f} minutes: go back to an earlier round, or repeat each less often.",
                minutes=MAX_EXPORT_SECONDS / 60,
            ))  # fmt: skip
        sounds = [first.source] if source else []
        sounds += [first.takes[0], *(self.read(found.number).takes[0] for found in path[1:])]
        lead = min(start, round(JOINT_SECONDS * rate))
        samples = _even([sound.audio_data[..., start - lead : end] for sound in sounds], rate)
        lead_ins, samples = ([sound[..., :lead] for sound in samples], [sound[..., lead:] for sound in samples])
        joined = []
        for index, sound in enumerate(samples):
            after = (index + 1) % len(samples)
            joined += [sound if self.loop else _join(sound, lead_ins[index], rate)] * (repeats - 1)
            last = index == len(samples) - 1 and (not self.loop or len(samples) == 1)
            # What leads into a loop is its own end.
            joined.append(sound if last else _join(sound, samples[after] if self.loop else lead_ins[after], rate))
        return audio.limit(audio.make_signal(torch.cat(joined, dim=-1), rate), loop=self.loop)

    def comment(self, to: int) -> str:
        """What travels in the exported file: what its last round was asked for, and the seed of the journey.

        Raises:
            ValueError: there is no such round.
        """
        last, path = self._one(to), self.path(to)
        return self._comment(last.prompt, last.sampling, len(path), bundle.read_settings(last.folder)["model"])

    def _comment(self, prompt: Prompt, sampling: Sampling, rounds: int, model: str, mask: Tensor | None = None) -> str:
        origin = metadata.Origin(
            prompt, sampling, self.seed, 1, self.loop, self.bars, "journey", rounds, model, self.name, self._hash,
            painted=mask is not None, mask=None if mask is None else PackedMask.of(mask),
        )  # fmt: skip
        return metadata.write(origin)

    def _bounds(self, vamp: Vamp) -> tuple[int, int]:
        """What of a round is joined, in samples."""
        whole = 0, vamp.source.audio_data.shape[-1]
        if self.loop or self.bars is not None or vamp.beats is None:
            return whole
        try:
            return loops.bars(vamp.source, vamp.beats)
        except ValueError:
            return whole  # without a beat there are no bars


def _join(sound: Tensor, lead_in: Tensor, rate: int) -> Tensor:
    """`sound` with its end faded into what leads into the next one; where nothing does, faded out."""
    # A fade over the few samples of a bar that begins at once would be a click.
    if lead_in.shape[-1] >= FADE_SECONDS * rate:
        return loops.close_seam(audio.make_signal(sound, rate), lead_in, JOINT_SECONDS, always=True).audio_data
    fade = min(round(FADE_SECONDS * rate), sound.shape[-1])
    return torch.cat([sound[..., :-fade], sound[..., -fade:] * torch.linspace(1, 0, fade + 1)[1:]], dim=-1)


def _rounds_in(folder: Path) -> list[int]:
    """The numbers of the rounds that a folder holds, after 0."""
    names = (path.name.removeprefix("round-") for path in folder.glob("round-*"))
    return [0, *(int(name) for name in names if name.isascii() and name.isdigit())]


def _even(sounds: list[Tensor], rate: int) -> list[Tensor]:
    """Clips (1, C, N) at one loudness, that of the middle one; what is too soft to be brought there comes near it."""
    found = [audio.measure_loudness(audio.make_signal(sound, rate)) for sound in sounds]
    heard = [lufs for lufs in found if math.isfinite(lufs)]
    if not heard:
        return sounds
    target = statistics.median(heard)
    moves = [min(max(target - lufs, -MAX_EVEN_DB), MAX_EVEN_DB) if math.isfinite(lufs) else 0.0 for lufs in found]
    return [sound * 10 ** (move / 20) for sound, move in zip(sounds, moves, strict=True)]
