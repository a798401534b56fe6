"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vampnet.whole_file import fitting, whole_file


@pytest.mark.skipif(os.name == "nt", reason="links and modes are others there")
def test_a_link_stays_one_and_a_file_keeps_its_mode(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("before")
    real.chmod(0o600)
    link.symlink_to(real)
    with whole_file(link) as part:
        part.write_text("after")
    assert link.is_symlink() and real.read_text() == "after" and real.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_names_are_cut_between_characters() -> None:
    assert fitting("loop") == "loop" and fitting("a" * 300) == "a" * 200
    assert fitting("\uac00" * 85) == "\uac00" * 66 and len(os.fsencode(fitting("\uac00" * 85))) <= 200
