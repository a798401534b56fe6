"""Named endpoints for other programs: `/vamp`, `/mask`, `/encode`, `/decode`, `/share`.

They are described on the page behind "Use via API" and for MCP. They ask for the same things as the page, say the same
sentences when something is wrong, and wait in a line of their own.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import gradio as gr
import numpy as np
from gradio import FileData
from gradio.route_utils import get_root_url
from torch import Tensor

from vampnet import audio, tokens_file
from vampnet.bundle import read_bundle, read_settings, write_bundle
from vampnet.config import Prompt, Sampling, TokenGrid
from vampnet.gallery import Gallery
from vampnet.pipeline import VampNet
from vampnet.prompt import build_mask, kept_kbps, kept_share
from vampnet.ring import whole_steps
from vampnet.serving import batch_for
from vampnet.studio.controls import Request
from vampnet.studio.endpoints import add_endpoint, check_format, check_work, file_of, plain_errors, read_options, uploaded
from vampnet.studio.handlers import Handlers
from vampnet.studio.lanes import PROGRAM_LANE
from vampnet.studio.mask_picture import describe, mask_of
from vampnet.studio.results import Results
from vampnet.studio.running import Running
from vampnet.studio.session import Session, Source, plain_name, read_source
from vampnet.studio.share_data import publish
from vampnet.studio.share_limit import ShareLimit
from vampnet.studio.shelf import Shape
from vampnet.studio.text import say

Bars = Literal["off", "1", "2", "4", "8"]
Format = Literal["wav", "flac", "ogg"]
Steps = Callable[[str, int, int], None]
Result = TypeVar("Result")


class Programs:
    """The endpoints of one page. `add` puts them into the `gr.Blocks` that it is called in.

    Args:
        handlers: of the page; their model is used, and their folder.
        gallery: where vamps are shared by link; None = they cannot be.
        limit: how often; by default what the gallery's limits say.
    """

    def __init__(self, handlers: Handlers, gallery: Gallery | None = None, limit: ShareLimit | None = None) -> None:
        self.handlers, self.gallery = handlers, gallery
        if gallery is not None:
            self.limit = limit or ShareLimit.of(gallery.limits)
        self.results = Results(handlers.files)

    def add(self) -> None:
        """Adds the endpoints."""
        add_endpoint(self.vamp, "vamp", (Prompt, Sampling), **PROGRAM_LANE)
        add_endpoint(self.mask, "mask", (Prompt,), concurrency_limit=4)
        add_endpoint(self.encode, "encode", **PROGRAM_LANE)
        add_endpoint(self.decode, "decode", **PROGRAM_LANE)
        if self.gallery is not None:
            add_endpoint(self.share, "share", concurrency_limit=2)

    # ---- endpoints ----------------------------------------------------------------------------------------------------

    def vamp(
        self,
        source: FileData,
        takes: int = 4,
        seed: int = 0,
        loop: bool = False,
        bars: Bars = "off",
        extend_before: float = 0.0,
        extend_after: float = 0.0,
        format: Format = "wav",
        **options: Any,
    ) -> Iterator[tuple[list[FileData], dict[str, Any]]]:
        """Makes variations (takes) of a sound: the prompt says which of its tokens stay, the model makes the others anew.

        Takes are as long and as loud as the source. While it works it answers no takes and {"progress": {"stage", "step",
        "of"}}; the last answer is the result. Cancelling the job stops it before its next step.

        Args:
            source: a sound file (wav, flac, ogg, mp3, aiff) of 0.1 to 600 seconds.
            takes: how many, 1 to 8; take i depends on the seed and i alone.
            seed: the same seed and settings give the same takes, 0 to 2147483647.
            loop: the sound is a loop: its end flows into its beginning, in the takes too.
            bars: cut the source to so many whole bars first.
            extend_before: seconds of new music before the source.
            extend_after: seconds of new music after it.
            format: of the takes' files.

        Returns:
            takes: the sound files.
            settings: all that made them, what it kept, and "id", which names the vamp for an hour.
        """
        with plain_errors(source), self.source(source) as (session, clip):
            given = {**options, "takes": takes, "seed": seed, "loop": loop, "bars": bars}
            request = read_options({**given, "extend_before": extend_before, "extend_after": extend_after}, self.shape)
            check_format(format)
            check_work(request, clip.seconds)

            def work(model: VampNet, on_step: Steps, stopped: Callable[[], bool]) -> Any:
                beats = clip.track() if request.prompt.needs_beats or request.bars is not None else None
                return model.vamp(
                    clip.path, request.prompt, request.sampling, request.takes, request.seed, loop=request.loop,
                    bars=request.bars, beats=beats, extend=request.extend, batch=batch_for(model), on_step=on_step,
                    cancelled=stopped,
                )  # fmt: skip

            made = yield from self._progress(work)
            name, folder = self.results.new()
            names = [f"{clip.name}-take{number}-seed{request.seed}" for number in range(1, request.takes + 1)]
            settings = write_bundle(made, folder, format, names, {"source_name": clip.name})
            found = [file_of(folder / file) for file in settings["files"]]
            yield found, {**settings, "id": name, "sentence": describe(made.mask, made.grid)}

    def mask(
        self,
        source: FileData | None = None,
        seconds: float = 8.0,
        seed: int = 0,
        loop: bool = False,
        bars: Bars = "off",
        **options: Any,
    ) -> dict[str, Any]:
        """Says what a prompt keeps of a sound, or of any sound of a length: share, kilobits a second, and the mask itself.

        It is the very mask that `/vamp` uses with these settings.

        Args:
            source: a sound file; without one the mask is made for `seconds`, and beats and onsets are not known.
            seconds: length where there is no source.
            seed: of the prompt's dropout.
            loop: the sound is a loop.
            bars: cut the source to so many whole bars first.

        Returns:
            facts: kept_share (0 to 1), kept_kbps, sentence, levels, steps, step_seconds, mask (levels x steps bits in base64,
                row by row from the coarsest level, first bit first, 1 = made anew).
        """
        with plain_errors(source):
            request = read_options({**options, "seed": seed, "loop": loop, "bars": bars}, self.shape)
            if source is None:
                return mask_facts(self._mask_of_length(request, seconds), self.shape.grid)
            with self.source(source) as (_, clip):
                if request.prompt.needs_beats or request.bars is not None:
                    clip.track()
                return mask_facts(mask_of(request, clip, self.shape)[0], self.shape.grid)

    def encode(self, source: FileData, loop: bool = False) -> tuple[FileData, dict[str, Any]]:
        """Turns a sound into a small file of tokens, about 8 kilobits a second, that `/decode` turns back into sound.

        Args:
            source: a sound file; it is encoded in one channel.
            loop: the sound is a loop, and is to be decoded as one.

        Returns:
            tokens: the file.
            facts: model, seconds, levels, steps, bytes and kbps.
        """
        with plain_errors(source), self.source(source) as (_, clip):
            file = self._use(lambda model, *_: tokens_file.compress(model, clip.path, loop=bool(loop)))
            _, folder = self.results.new()
            path = folder / f"{clip.name}.vnt"
            size, length = tokens_file.write(file, path), file.samples / file.sample_rate
            facts = {"model": file.model, "seconds": length, "levels": file.tokens.shape[1], "steps": file.tokens.shape[2]}
            return file_of(path), {**facts, "bytes": size, "kbps": round(8 * size / length / 1000, 3)}

    def decode(self, tokens: FileData, format: Format = "wav") -> FileData:
        """Turns a file of tokens back into sound, as long and as loud as what it was made of.

        Args:
            tokens: a file that `/encode` or the command `vampnet encode` wrote with the model that is loaded.
            format: of the sound file.

        Returns:
            sound: the file, in one channel.
        """
        with plain_errors(tokens):
            path = uploaded(tokens)
            check_format(format)
            file = tokens_file.read(path)
            signal = self._use(lambda model, *_: tokens_file.expand(model, file))
            _, folder = self.results.new()
            return file_of(audio.save(signal, folder / f"{plain_name(path.stem)}.{format}"))

    def share(self, id: str, request: gr.Request, title: str = "", note: str = "", private: bool = False) -> dict[str, str]:
        """Shares a vamp that `/vamp` has made within the last hour: a link to a page with its takes, for everybody who has it.

        Args:
            id: "id" among the settings that `/vamp` gave.
            title: of the page, at most 80 characters.
            note: beneath it, at most 600 characters.
            private: keep the source back: only the takes can be heard.

        Returns:
            links: "link" opens the page, "delete" is for who may delete it; keep that one.
        """
        with plain_errors():
            if not all(isinstance(text, str) for text in (title, note)) or not isinstance(private, bool):
                raise ValueError(say("programs.share"))
            folder = self.results.find(id)
            if folder is None:
                raise ValueError(say("programs.unknown"))
            vamp, name = read_bundle(folder), str(read_settings(folder)["extra"]["source_name"])
            with self.limit.counted(request) as weigh:
                shared, secret = publish(self.gallery, vamp, title=title, note=note, private=private, source_name=name)
                weigh(shared.bytes)
            link = f"{_address(request)}/v/{shared.id}"
            return {"link": link, "delete": f"{link}/delete#{secret}"}

    # ---- parts of these -----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """What there is to know of the model."""
        return self.handlers.shelf.shape

    @contextmanager
    def source(self, given: Any) -> Iterator[tuple[Session, Source]]:
        """A clip that was uploaded, in a session of its own that ends with the call."""
        path = uploaded(given)
        session = Session(self.handlers.files)
        try:
            yield session, read_source(session, str(path), Path(given.get("orig_name") or path.name).stem)
        finally:
            session.close()

    def _use(self, work: Callable[..., Result]) -> Result:
        """`_progress` for those who cannot show any."""
        running = self._progress(work)
        while True:
            try:
                next(running)
            except StopIteration as end:
                return end.value

    def _progress(self, work: Callable[..., Result]) -> Generator[tuple[list[FileData], dict[str, Any]], None, Result]:
        """Runs `work(model, on_step, stopped)` in a thread and yields how far it is; it stops when this generator is closed."""
        for step in (running := Running(self.handlers, work)):
            yield [], {"progress": step}
        return running.outcome.result()

    def _mask_of_length(self, request: Request, seconds: Any) -> Tensor:
        if not isinstance(seconds, (int, float)) or not audio.MIN_SECONDS <= seconds <= audio.MAX_SECONDS:
            raise ValueError(say("programs.seconds", low=audio.MIN_SECONDS, high=audio.MAX_SECONDS, given=repr(seconds)))
        if request.bars is not None:
            raise ValueError(say("programs.bars"))
        shape = self.shape
        samples = shape.grid.seconds_to_samples(seconds)
        hop = shape.grid.hop
        steps = whole_steps(samples, hop) // hop if request.loop else shape.grid.samples_to_tokens(samples)
        return build_mask(request.prompt, (shape.levels, steps), shape.grid, seed=request.seed)


def _address(request: gr.Request) -> str:
    """Where the page is, as who sends a request sees it."""
    asked = request.request
    root = getattr(asked.app, "root_path", "") or asked.scope.get("root_path", "")
    return get_root_url(asked, asked.url.path, root)


def mask_facts(mask: Tensor, grid: TokenGrid) -> dict[str, Any]:
    """What `/mask` says about a mask (1, K, T)."""
    bits = np.packbits(mask[0].cpu().numpy().astype(np.uint8), axis=None)
    return {
        "kept_share": round(kept_share(mask), 6), "kept_kbps": round(kept_kbps(mask, grid), 6),
        "sentence": describe(mask, grid), "levels": mask.shape[1], "steps": mask.shape[2],
        "step_seconds": grid.hop / grid.sample_rate, "mask": base64.b64encode(bits.tobytes()).decode("ascii"),
    }  # fmt: skip
