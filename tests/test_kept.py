"""The sound of what is kept."""

import pytest
import torch
from tiny import tiny_vampnet

from vampnet.config import Prompt
from vampnet.kept import depths, kept_sound

RATE, HOP = 44_100, 768

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def vn():
    return tiny_vampnet()


def test_depth_counts_levels_without_a_gap():
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, :, 0] = False
    mask[0, :2, 1] = False
    mask[0, [0, 2], 2] = False
    mask[0, 1:, 3] = False
    assert depths(mask).tolist() == [4, 2, 1, 0]


@pytest.mark.parametrize("loop", [False, True])
def test_what_is_made_anew_is_silent_and_what_is_kept_sounds_as_the_codec_gives_it(vn, make_music, loop):
    clip = vn.listen((0.2 * torch.from_numpy(make_music(1.0)), RATE), loop=loop)
    mask = vn.mask(clip.tokens, Prompt(periodic=0, region=(0.5, 1.0)))
    sound = kept_sound(vn.codec, clip, mask).audio_data
    whole = kept_sound(vn.codec, clip, torch.zeros_like(mask)).audio_data
    assert sound.shape == clip.signal.audio_data.shape
    # The image reaches 2048 samples to either side, and a ring rings a little when it is stretched.
    assert float(sound[..., 26_000:40_000].abs().max()) < 1e-3 < float(sound[..., 4000:18_000].abs().max())
    assert torch.allclose(sound[..., 4000:18_000], whole[..., 4000:18_000], atol=1e-3)


def test_fewer_levels_sound_different_and_none_are_said(vn, make_music):
    clip = vn.listen((0.2 * torch.from_numpy(make_music(0.5))[:1], RATE))
    mask = torch.ones_like(clip.tokens, dtype=torch.bool)
    with pytest.raises(ValueError, match="Nothing that sounds"):
        kept_sound(vn.codec, clip, mask)
    mask[:, :2] = False
    coarse = kept_sound(vn.codec, clip, mask)
    assert not torch.allclose(coarse.audio_data, kept_sound(vn.codec, clip, mask & False).audio_data, atol=1e-3)
    with pytest.raises(ValueError, match="of the clip's tokens"):
        kept_sound(vn.codec, clip, mask[..., :-1])
