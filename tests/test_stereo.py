"""The stereo image: what comes back, in level, position and width, from one channel and the image."""

import math

import pytest
import torch

from vampnet import overlapping, passes, stereo, stereo_kernels
from vampnet.audio import make_signal
from vampnet.loops import seam_step

RATE = 44_100


pytestmark = pytest.mark.usefixtures("one_thread")


def noise(channels, seconds=1.0, seed=0):
    return torch.randn(channels, round(seconds * RATE), generator=torch.Generator().manual_seed(seed)) * 0.1


def chord(seconds=1.0):
    t = torch.arange(round(seconds * RATE)) / RATE
    return sum(torch.sin(2 * math.pi * f * t) for f in (110.0, 220.0, 330.0, 523.25, 1046.5)) * 0.1


def hits(seconds=1.0):
    n = torch.arange(round(seconds * RATE))
    return noise(1, seconds, 5)[0] * 3 * torch.exp(-(n % (RATE // 4)) / 1500.0)


def there_and_back(x, loop=False):
    mono, image = stereo.split(make_signal(x[None], RATE), loop)
    assert mono.audio_data.shape == (1, 1, x.shape[-1])
    out = stereo.apply(mono, image, loop)
    assert out.audio_data.shape == (1, 2, x.shape[-1]) and bool(torch.isfinite(out.audio_data).all())
    return out.audio_data[0], mono.audio_data[0, 0], image


def worst_db(x, y, octave=1.0, lowest=125.0):
    """Largest level error of a channel in a band of `octave`, where it holds more than -30 dB of the clip.

    By an FFT of the whole, independent of the code under test.
    """
    before, after = (torch.fft.rfft(z.double()).abs().square() for z in (x, y))
    frequency = torch.arange(before.shape[-1]) * RATE / x.shape[-1]
    worst = 0.0
    while lowest < 16_000:
        band = (frequency >= lowest) & (frequency < lowest * 2**octave)
        for channel in range(2):
            was, now = float(before[channel, band].sum()), float(after[channel, band].sum())
            if was > 1e-3 * float(before.sum()):
                worst = max(worst, abs(10 * math.log10(max(now, 1e-20) / was)))
        lowest *= 2**octave
    return worst


def correlation(x):
    return float((x[0] * x[1]).sum() / (x[0].norm() * x[1].norm()).clamp_min(1e-12))


@pytest.mark.parametrize("rate", [RATE, 22_050])
def test_one_pass_a_frame_is_the_plain_formulas(rate):
    bands, (share, starts) = overlapping.twice(stereo._band_matrix(rate)), stereo._places(rate)
    near = torch.zeros_like(bands)
    for band in range(stereo.BANDS - 1):
        inside = slice(int(starts[band]), int(starts[band + 1]))
        near[band, inside], near[band + 1, inside] = 1 - share[inside], share[inside]
    assert int(starts[-1]) == bands.shape[1] and torch.allclose(near, bands, atol=1e-5)

    a, b, x, y = torch.randn(4, 9, bands.shape[1])
    heard = overlapping.Spectra([], 9 * overlapping.HOP - overlapping.WINDOW, False)
    heard._kept = [(slice(0, 9), [], [x, y])]
    for found, product in zip(stereo._band_energies(heard, rate), (x * x, x * y, y * y), strict=True):
        assert torch.allclose(found, (product.double() @ bands.double().T).T, rtol=1e-4, atol=1e-3)

    gains, out = torch.randn(2, stereo.BANDS, 9), torch.empty(2, *x.shape)
    passes.by_rows(stereo_kernels.painted, out.numel(), 9, x, y, *gains, share, starts, a[0], b[0], *out)
    across = (gains[0].T @ bands) * x + (gains[1].T @ bands) * y
    assert torch.allclose(out, torch.stack([a[0] * x - b[0] * across, b[0] * x + a[0] * across]), atol=1e-3)


@pytest.mark.parametrize("gains", [(1.0, 1.0), (1.0, -1.0), (1.0, 0.0), (0.0, 1.0), (0.9, 0.3), (0.2, -0.8), (-0.5, -0.5)])
def test_one_panned_source_comes_back_whole(gains):
    source = noise(1)[0] + chord() + hits()
    x = torch.stack([gains[0] * source, gains[1] * source])
    y, mono, _ = there_and_back(x)
    assert float((x - y).abs().max()) < 1e-3 * float(x.abs().max())
    assert float(mono.square().sum() / x.square().sum()) > 0.9, "the downmix holds nearly all of the energy"


@pytest.mark.parametrize("balance", [(1.0, 1.0), (1.0, 0.4)])
def test_wide_noise_stays_wide(balance):
    x = noise(2, 2.0) * torch.tensor(balance)[:, None]
    y, _, _ = there_and_back(x)
    assert worst_db(x, y) < 1.0
    assert abs(10 * math.log10(float(y[0].square().sum() / x[0].square().sum()))) < 0.3
    assert abs(correlation(y) - correlation(x)) < 0.06


@pytest.mark.parametrize("width", [0.0, 0.3, 0.6, 0.9])
def test_coherence_is_kept(width):
    common, apart = noise(1, 1.5, 1)[0], noise(2, 1.5, 2)
    x = math.sqrt(1 - width) * common + math.sqrt(width) * apart
    y, _, _ = there_and_back(x)
    assert abs(correlation(y) - (1 - width)) < 0.08


def test_a_mix_keeps_its_levels_and_places():
    x = torch.stack([chord() + 0.3 * hits(), 0.3 * chord() + hits()]) + 0.1 * noise(2, seed=3)
    y, _, _ = there_and_back(x)
    assert worst_db(x, y) < 1.0 and abs(correlation(y) - correlation(x)) < 0.05


def test_bands_may_have_different_axes():
    """Low partials in the middle, hiss in antiphase: neither vanishes from the one channel."""
    hiss = noise(1)[0]
    hiss = hiss - torch.nn.functional.avg_pool1d(hiss[None], 9, 1, 4)[0]
    x = torch.stack([chord() + hiss, chord() - hiss])
    y, mono, image = there_and_back(x)
    assert float(mono.square().sum() / x.square().sum()) > 0.9
    assert float(image.axis[:, 30].prod()) > 0 > float(image.axis[:, 1500].prod())
    high = torch.arange(x.shape[-1] // 2 + 1) * RATE / x.shape[-1] > 8000
    before, after = (torch.fft.rfft(z).abs().square()[:, high].sum(1) for z in (x, y))
    assert float((10 * torch.log10(after / before)).abs().max()) < 0.5


def test_equal_channels_stay_equal_and_mono_stays_mono():
    source = hits() + chord()
    y, _, _ = there_and_back(torch.stack([source, source]))
    assert torch.equal(y[0], y[1])
    signal = make_signal(source[None, None], RATE)
    mono, image = stereo.split(signal)
    assert torch.equal(mono.audio_data, signal.audio_data) and image.channels == 1
    assert torch.equal(stereo.apply(mono, image).audio_data, signal.audio_data)


@pytest.mark.parametrize("loop", [False, True])
def test_silence(loop):
    y, mono, image = there_and_back(torch.zeros(2, 30_000), loop)
    assert not y.any() and not mono.any()
    take = make_signal(noise(1, 30_000 / RATE)[None], RATE)
    out = stereo.apply(take, image, loop).audio_data[0]
    assert torch.allclose(out[0], out[1]) and float(out.abs().max()) > 0.1


def test_a_take_unlike_its_source_is_never_blown_up():
    image = there_and_back(torch.stack([chord(), 0.2 * chord()]) + 0.001 * noise(2))[2]
    take = noise(1, seed=9)
    out = stereo.apply(make_signal(take[None], RATE), image).audio_data
    assert float(out.square().sum() / take.square().sum()) < 10


def test_hits_from_side_to_side_in_sixteenths_stay_there():
    count, gap = 16, round(0.125 * RATE)
    hit = noise(1, 0.125)[0] * torch.exp(-torch.arange(gap) / 400)
    x = torch.zeros(2, count * gap)
    for i in range(count):
        x[i % 2, i * gap : (i + 1) * gap] = hit
    power = there_and_back(x)[0].reshape(2, count, gap).square().sum(-1)
    own, other = (sum(float(power[(i + side) % 2, i]) for i in range(2, count - 2)) for side in (0, 1))
    assert 10 * math.log10(own / other) > 8


@pytest.mark.parametrize("samples", [1000, 4410, 30_001, 50_003])
@pytest.mark.parametrize("loop", [False, True])
def test_length_is_exact(samples, loop):
    x = noise(2, samples / RATE)
    y, _, _ = there_and_back(x, loop)
    assert y.shape == x.shape and 0.3 < float(y.norm() / x.norm()) < 3


@pytest.mark.parametrize("samples", [30_001])
def test_rings_turn_with_their_content(samples):
    """A rotated ring gives the rotated result: nothing marks where the file begins."""
    t = torch.arange(samples) / samples
    ring = torch.stack([torch.sin(2 * math.pi * 90 * t) + torch.sin(2 * math.pi * 401 * t), torch.sin(2 * math.pi * 250 * t)])
    ring = ring * 0.2 + 0.05 * torch.randn(2, samples, generator=torch.Generator().manual_seed(1))
    y, _, _ = there_and_back(ring, loop=True)
    turned, _, _ = there_and_back(ring.roll(samples // 3, -1), loop=True)
    assert float((y.roll(samples // 3, -1) - turned).norm() / y.norm()) < 0.03
    across, inside = seam_step(make_signal(y[None], RATE))
    assert across <= inside


def test_a_take_of_another_length_gets_the_image_in_time():
    """The source moves from left to right; a longer take does so at the same moments and then stays, or begins again."""
    fade = torch.linspace(0, 1, 2 * RATE)
    source = noise(1, 2.0)[0]
    _, image = stereo.split(make_signal(torch.stack([source * (1 - fade), source * fade])[None], RATE))
    take = make_signal(noise(1, 4.0, 8)[None], RATE)

    def balance(out, second):
        piece = out.audio_data[0, :, round((second - 0.1) * RATE) : round((second + 0.1) * RATE)].square().sum(1)
        return float(piece[1] / piece.sum())

    on = stereo.apply(take, image)
    assert balance(on, 0.2) < 0.1 and 0.3 < balance(on, 1.0) < 0.7 and balance(on, 1.8) > 0.9 and balance(on, 3.5) > 0.9
    again = stereo.apply(take, image, loop=True)
    assert balance(again, 2.3) < 0.2 and balance(again, 3.8) > 0.8


def test_deterministic_and_input_untouched():
    x = noise(2)
    kept = x.clone()
    assert torch.equal(there_and_back(x)[0], there_and_back(x)[0]) and torch.equal(x, kept)


def test_wrong_shapes_get_a_sentence():
    with pytest.raises(ValueError, match="mono or stereo"):
        stereo.split(make_signal(noise(3)[None], RATE))
    _, image = stereo.split(make_signal(noise(2)[None], RATE))
    with pytest.raises(ValueError, match="one channel"):
        stereo.apply(make_signal(noise(2)[None], RATE), image)
    with pytest.raises(ValueError, match="resample"):
        stereo.apply(make_signal(noise(1)[None], 48_000), image)
