"""Sources as the models heard them last: who vamps a clip again does not wait for its tokens again."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vampnet.beats import BeatGrid
    from vampnet.pipeline import VampNet
    from vampnet.studio.controls import Request
    from vampnet.studio.session import Source
    from vampnet.vamp import Clip

MOST_BYTES = 256_000_000
"""Of sound that is kept for all visitors together: ten minutes of stereo are 212 MB."""


class HeardClips:
    """One clip for each source, as long as there is room and the source is there.

    Args:
        most: bytes of sound; the clips that were not asked for the longest go first.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._kept: weakref.WeakKeyDictionary[Source, tuple[Any, Clip]] = weakref.WeakKeyDictionary()

    def listen(self, model: VampNet, source: Source, request: Request, beats: BeatGrid | None, **watch: Any) -> Any:
        """What `model.vamp` takes as the source of a request: its clip, or where a device elsewhere hears it, its file.

        Args:
            beats: of the source.
            watch: `on_step` and `cancelled`, as in `VampNet.listen`.

        Raises:
            AudioError, ValueError, CancelledError: as `VampNet.listen`.
        """
        if getattr(model, "elsewhere", False):
            return source.path
        options = {"loop": request.loop, "bars": request.bars, "beats": beats}
        # Beats say where bars are cut; else they only go along.
        cut = None if request.bars is None else (request.bars, beats)
        key = source.path, model.codec_id, model.precision, str(model.device), request.loop, cut
        with self._lock:
            found = self._kept.pop(source, None)
            if found is not None and found[0] == key:
                self._kept[source] = found  # behind all others
                return found[1] if cut else dataclasses.replace(found[1], beats=beats)
        clip = model.listen(source.path, **options, **watch)
        with self._lock:
            self._kept.pop(source, None)
            self._kept[source] = key, clip
            for other in list(self._kept):
                if sum(map(_bytes, self._kept.values())) <= self.most:
                    break
                del self._kept[other]
        return clip


def _bytes(kept: tuple[Any, Clip]) -> int:
    return kept[1].signal.audio_data.numel() * 4
