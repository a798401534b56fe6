"""Which models there are, and how the command and the bar show them."""

import argparse
from pathlib import Path

import pytest
from hub_server import FILES, STOCK, Repo
from huggingface_hub import constants
from tiny import tiny_checkpoint

from vampnet import checkpoints
from vampnet.catalogue import size
from vampnet.hub_cli import DownloadBar, add_parser, run

pytest_plugins = ["hub_fixtures"]


def test_the_catalogue(server, published, unreachable, tmp_path):
    total = sum(len(published[name]) for name in FILES)
    entries = {entry.name: entry for entry in checkpoints.catalogue()}
    assert list(entries) == ["mini", STOCK, f"{STOCK}:choir"]
    assert entries["mini"].source == "bundled" and entries["mini"].on_disk and entries["mini"].licence == "CC0 1.0"
    for name in (STOCK, f"{STOCK}:choir"):
        assert (entries[name].source, entries[name].on_disk) == ("hub", False)
        assert entries[name].licence == "CC BY-NC-SA 4.0"
    assert entries[STOCK].size_bytes == total
    checkpoints.locate(STOCK)
    folder = tiny_checkpoint(tmp_path / "tiny")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.repos["someone/tiny"] = Repo(files, refs=("main", "v2"))
    checkpoints.locate("someone/tiny@v2")
    for storage in Path(constants.HF_HUB_CACHE).glob("models--*"):
        (storage / "snapshots" / ".DS_Store").write_bytes(b"")  # of somebody who had a look
    for plugged in (True, False):
        if not plugged:
            unreachable()
        found = {entry.name: entry.source for entry in checkpoints.catalogue()}
        choir = {f"{STOCK}:choir": "hub"} if plugged else {}
        assert found == {"mini": "bundled", STOCK: "cached", **choir, "someone/tiny@v2": "cached"}
    assert checkpoints.catalogue(online=False) == checkpoints.catalogue()
    assert {entry.name: entry.licence for entry in checkpoints.catalogue()}["someone/tiny@v2"] == "not stated"


def test_the_catalogue_without_anything(server, unreachable):
    asked = len(server.asked)
    entries = checkpoints.catalogue(online=False)
    assert len(server.asked) == asked
    unreachable()
    assert checkpoints.catalogue() == entries
    assert [entry.name for entry in entries] == ["mini", STOCK]
    assert entries[1].size_bytes == pytest.approx(3.03e9, rel=0.01) and entries[1].licence == "CC BY-NC-SA 4.0"


def test_the_command_prints_a_table(server, unreachable, capsys):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(dest="command"))
    assert run(parser.parse_args(["models"])) == 0
    out, said = capsys.readouterr()
    titles, *lines = out.splitlines()
    assert not said
    assert titles.split() == ["name", "where", "size", "licence", "about"]
    assert [line.split()[0] for line in lines] == ["mini", STOCK, f"{STOCK}:choir"]
    assert all("CC BY-NC-SA 4.0" in line and " hub " in line for line in lines[1:])
    server.asked.clear()
    assert run(parser.parse_args(["models", "--offline"])) == 0 and not server.asked
    out, said = capsys.readouterr()
    assert "3.0 GB" in out and not said
    unreachable()
    assert run(parser.parse_args(["models"])) == 0
    shown, said = capsys.readouterr()
    assert shown == out and said.startswith("The hub gave no answer")


def test_sizes_for_people():
    assert [size(n) for n in (None, 1_500_000, 34_000_000, 3_030_000_000)] == ["size unknown", "2 MB", "34 MB", "3.0 GB"]


def test_the_download_bar(server, capsys):
    bar = DownloadBar()
    checkpoints.locate(STOCK, on_download=bar)
    bar.close()
    shown = capsys.readouterr().err
    assert all(f"{name}: 100%" in shown for name in FILES)
