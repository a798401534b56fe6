"""What a long clip takes in memory, by the command itself with the bundled model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vampnet.config import SAMPLE_RATE

PEAK = """
import sys
from vampnet.cli import main
assert main(sys.argv[1:]) == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system says it on Linux")
def test_two_minutes_take_little_more_memory_than_ten_seconds(make_music, tmp_path: Path):
    """It took a quarter more when all of a clip lay in memory; a tenth is what five minutes may take."""
    music, peaks = make_music(10.0), []
    for seconds in (10, 120):
        file = tmp_path / f"{seconds}.wav"
        soundfile.write(file, np.tile(music, seconds // 10).T, SAMPLE_RATE)
        command = [
            sys.executable,
            "-c",
            PEAK,
            "vamp",
            str(file),
            "-o",
            str(tmp_path),
            "--takes",
            "2",
            "--steps",
            "2",
            "--quiet",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert soundfile.info(tmp_path / f"{seconds}-take-2.wav").frames == seconds * SAMPLE_RATE
        peaks.append(1024 * int(done.stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0], peaks
