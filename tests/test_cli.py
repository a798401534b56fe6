import argparse
import dataclasses
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import unspeakable
from tiny import tiny_checkpoint, tiny_vampnet

from vampnet import audio, cli, cli_settings, tokens_file
from vampnet.config import Prompt, Sampling

ROOT = Path(__file__).resolve().parent.parent
RATE = 44_100


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model(tmp_path):
    return str(tiny_checkpoint(tmp_path / "tiny"))


@pytest.fixture
def wav(tmp_path, make_music):
    path = tmp_path / "in.wav"
    soundfile.write(path, 0.3 * make_music(seconds=0.7)[:, :30_001].T, RATE)
    return str(path)


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


# ------------------------------------------------------------------------------------------------------------------- help


def test_help_comes_at_once_and_imports_nothing_heavy():
    code = (
        "import sys; from vampnet.cli import main\n"
        "try: main(['vamp', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'librosa', 'audiotools', 'dac', 'gradio'} & set(sys.modules)))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 10
    assert done.stdout.splitlines()[-1] == "[]"
    for words in ("What stays", "How it is filled", "Output"):
        assert words in done.stdout


@pytest.mark.parametrize("command", [[], ["vamp"], ["encode"], ["decode"], ["train"], ["evaluate"], ["train", "coarse"]])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert end.value.code == 0 and "usage:" in capsys.readouterr().out


def test_every_option_of_prompt_and_sampling_can_be_set():
    assert set(cli_settings.PROMPT_HELP) == {field.name for field in dataclasses.fields(Prompt)}
    assert set(cli_settings.SAMPLING_HELP) == {field.name for field in dataclasses.fields(Sampling)}
    parse = cli.build_parser().parse_args
    assert cli_settings.settings(parse(["vamp", "in.wav"])) == (Prompt(), Sampling())
    prompt = Prompt(3, 2, 1, 4, 5, 0.5, 0.25, 75.0, 30.0, 0.1, (1.0, 2.5), 3, False)
    sampling = Sampling(12, 0.9, 7.0, 0.95, 50, 0.8, 64, 0.5, 2, 3)
    line = ["vamp", "in.wav"]
    for options in (prompt, sampling):
        for name, value in dataclasses.asdict(options).items():
            option = name.replace("_", "-")
            if value is False:
                line.append(f"--no-{option}")
            else:
                line += [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]
    assert cli_settings.settings(parse(line)) == (prompt, sampling)


def test_what_is_not_said_is_the_models_own_default(wav, model, tmp_path):
    path = Path(model) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "sampling": {"steps": 3, "guidance": 0.0}}))
    assert run("vamp", wav, "-o", tmp_path / "o", "--model", model, "--takes", 1, "--guidance", 0.25) == 0
    asked = json.loads((tmp_path / "o" / "in-vamp.json").read_text())["sampling"]
    assert Sampling(**asked) == Sampling(steps=3, guidance=0.25)


def test_python_dash_m_runs_it():
    done = subprocess.run([sys.executable, "-m", "vampnet", "vamp", "no.wav"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: There is no file 'no.wav': check the path.\n"


# ------------------------------------------------------------------------------------------------------------------- vamp


def test_vamp_writes_takes_and_settings(wav, model, tmp_path, capsys):
    out = tmp_path / "out"
    line = ["vamp", wav, "-o", out, "--periodic", 5, "--takes", 2, "--seed", 1, "--loop", "--steps", 2, "--fine-steps", 1]
    assert run(*line, "--model", model, "--device", "cpu", "--format", "flac") == 0
    said = capsys.readouterr()
    names = ["in-take-1.flac", "in-take-2.flac"]
    assert said.out.splitlines() == [str(out / name) for name in names]
    assert "2 takes of 0.68 s" in said.err
    assert all(soundfile.info(out / name).frames == 30_001 and soundfile.info(out / name).channels == 2 for name in names)
    settings = json.loads((out / "in-vamp.json").read_text())
    assert settings["files"] == names and settings["prompt"]["periodic"] == 5 and settings["sampling"]["steps"] == 2
    assert settings["source"] == "in.wav" and settings["loop"] is True and settings["seed"] == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--periodic", "-1"], "periodic must be 0"),
        (["--dropout", "2"], "dropout is a share"),
        (["--model", "nothing-here"], "There is no model 'nothing-here'"),
        (["--takes", "0"], "takes must be"),
        (["--bars", "0"], "bars must be"),
        (["--region", "9", "10"], "region starts at 9 s"),
    ],
)
def test_bad_options_give_one_sentence(wav, model, tmp_path, capsys, options, sentence):
    assert run("vamp", wav, "-o", tmp_path / "o", "--model", model, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and sentence in error and error.count("\n") == 1


def test_bad_files_give_one_sentence(tmp_path, model, capsys):
    text = tmp_path / "text.wav"
    text.write_text("This is not audio.")
    taken = tmp_path / "taken"
    taken.write_text("a file")
    soundfile.write(tmp_path / "silent.wav", [0.0] * 9000, RATE)
    for line in (
        ["vamp", text],
        ["encode", text],
        ["decode", text],
        ["decode", tmp_path / "missing.vnt"],
        ["vamp", tmp_path / "silent.wav"],
        ["vamp", tmp_path],
    ):
        assert run(*line, "--model", model) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1


def test_an_output_folder_that_cannot_be_made(wav, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    assert run("vamp", wav, "-o", tmp_path / "taken") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bars_are_a_number_or_all():
    assert cli._bars("4") == 4 and cli._bars("all") == "all"
    with pytest.raises(argparse.ArgumentTypeError, match="whole number or 'all'"):
        cli._bars("some")


def test_interrupting_ends_without_a_traceback(wav, monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_vamp", interrupted)
    assert run("vamp", wav) == 130 and capsys.readouterr().err == "Stopped.\n"


def test_a_bar_is_shown_for_each_stage(capsys):
    progress = cli._Progress(True)
    for step in (("coarse", 1, 2), ("coarse", 2, 2), ("fine", 1, 1)):
        progress(*step)
    progress.close()
    said = capsys.readouterr().err
    assert "coarse" in said and "fine" in said and "2/2" in said and said.endswith("\n")


def test_without_tqdm_the_steps_are_plain(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    progress = cli._Progress(True)
    progress("coarse", 1, 2)
    progress.close()
    assert capsys.readouterr().err == "\rcoarse 1/2 \n"


def test_training_and_evaluation_get_their_own_options(monkeypatch, capsys):
    calls = []

    class Module:
        def __init__(self, name):
            self.name = name

        def main(self, argv):
            calls.append((self.name, argv))
            return 3

    monkeypatch.setattr(cli.importlib, "import_module", Module)
    for line in ("train codec --run x", "train tokens --out y", "train fine --config z", "evaluate codec a", "corpus --out b"):
        assert cli.main(line.split()) == 3
    assert calls == [
        ("vampnet.train.codec", ["--run", "x"]),
        ("vampnet.train.tokens", ["--out", "y"]),
        ("vampnet.train.transformer", ["fine", "--config", "z"]),
        ("vampnet.evaluate.codec", ["a"]),
        ("vampnet.train.corpus", ["--out", "b"]),
    ]

    def missing(name):
        raise ModuleNotFoundError("no", name="tensorboard")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert cli.main(["train", "codec"]) == 2
    assert "'tensorboard', which is not installed" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- encode and decode


@pytest.mark.parametrize("loop", [False, True])
def test_encode_and_decode_give_length_and_loudness_back(wav, model, tmp_path, capsys, loop):
    tokens, again = tmp_path / "in.vnt", tmp_path / "again.flac"
    assert run("encode", wav, "-o", tokens, "--model", model, *(["--loop"] if loop else [])) == 0
    steps = (30_001 + 384) // 768 if loop else -(-30_001 // 768)
    payload = steps * 14 * 10 / 8
    assert payload <= tokens.stat().st_size <= payload + 64
    assert run("decode", tokens, "-o", again, "--model", model) == 0
    assert capsys.readouterr().out.splitlines() == [str(tokens), str(again)]
    before, after = audio.load(wav), audio.load(again)
    assert after.audio_data.shape == (1, 1, 30_001)
    assert abs(audio.measure_loudness(before) - audio.measure_loudness(after)) < 1
    vn = tiny_vampnet("tiny")
    assert torch.equal(tokens_file.read(tokens).tokens, vn.encode(before, loop))


def test_names_are_made_from_the_input(wav, model, tmp_path, capsys):
    assert run("encode", wav, "--model", model, "--quiet") == 0
    assert run("decode", tmp_path / "in.vnt", "--model", model, "--format", "ogg") == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(tmp_path / "in.vnt"), str(tmp_path / "in.ogg")] and said.err == ""
    assert run("decode", tmp_path / "in.vnt", "-o", tmp_path / "in.mp3", "--model", model) == 2
    assert "does not say which format" in capsys.readouterr().err


def test_a_name_that_nobody_gave_replaces_nothing(wav, model, tmp_path, capsys):
    before = Path(wav).read_bytes()
    assert run("encode", wav, "--model", model, "--quiet") == 0
    tokens = (tmp_path / "in.vnt").read_bytes()
    for arguments, word in (
        (["decode", tmp_path / "in.vnt"], "there already"),
        (["decode", tmp_path / "in.vnt", "-o", ""], "there already"),
        (["encode", wav], "there already"),
        (["encode", wav, "-o", wav], "the input itself"),
        (["decode", tmp_path / "in.vnt", "-o", tmp_path / "in.vnt", "--format", "wav"], "the input itself"),
        (["encode", wav, "-o", tmp_path / "nowhere" / "x.vnt"], f"'{tmp_path / 'nowhere' / 'x.vnt'}'"),
        (["decode", tmp_path / "in.vnt", "-o", tmp_path / "nowhere" / "x.wav"], f"'{tmp_path / 'nowhere' / 'x.wav'}'"),
    ):
        assert run(*arguments, "--model", model) == 2
        told = capsys.readouterr().err
        assert word in told and "Traceback" not in told
    assert Path(wav).read_bytes() == before and (tmp_path / "in.vnt").read_bytes() == tokens
    assert run("decode", tmp_path / "in.vnt", "-o", wav, "--model", model) == 0, "unless it was named"


def test_one_take_is_no_takes(wav, model, tmp_path, capsys):
    assert run("vamp", wav, "-o", tmp_path / "out", "--takes", 1, "--steps", 1, "--model", model, "--device", "cpu") == 0
    assert "1 take of 0.68 s; " in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_file_whose_name_is_no_text(wav, model, tmp_path):
    name = unspeakable(tmp_path)
    os.rename(wav, name)
    command = [sys.executable, "-m", "vampnet", "vamp", name, "-o", tmp_path / "out", "--takes", "1", "--steps", "1"]
    done = subprocess.run([*command, "--model", model, "--quiet"], cwd=ROOT, capture_output=True, check=True)
    takes = done.stdout.splitlines()
    assert len(takes) == 1 and takes[0].endswith(b"caf\xe9-take-1.wav") and os.path.exists(takes[0])
    told = json.loads(Path(os.fsdecode(takes[0].replace(b"take-1.wav", b"vamp.json"))).read_bytes())
    assert os.path.exists(tmp_path / "out" / told["files"][0])


def made_file(**changes):
    steps = changes.pop("steps", 9)
    tokens = torch.randint(0, 1024, (1, 14, steps), generator=torch.Generator().manual_seed(steps))
    fields = {
        "tokens": tokens, "sample_rate": RATE, "hop": 768, "samples": steps * 768 - 5, "lufs": -18.25, "loop": False,
        "codec_id": "00112233445566ff", "model": "tiny",
    }  # fmt: skip
    return tokens_file.TokenFile(**{**fields, **changes})


@pytest.mark.parametrize("steps", range(1, 9))
def test_bytes_hold_everything_exactly(steps):
    file = made_file(steps=steps, model="größer")
    data = tokens_file.to_bytes(file)
    again = tokens_file.from_bytes(data)
    assert torch.equal(again.tokens, file.tokens) and again.tokens.dtype == torch.int64
    for field in dataclasses.fields(file):
        if field.name != "tokens":
            assert getattr(again, field.name) == getattr(file, field.name)


def test_ten_seconds_cost_eight_kilobits_a_second():
    size = len(tokens_file.to_bytes(made_file(steps=574)))
    assert 8.0 < 8 * size / (574 * 768 / RATE) / 1000 < 8.1


def test_every_damaged_byte_and_every_cut_is_noticed():
    data = tokens_file.to_bytes(made_file(steps=2))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(tokens_file.TokenFileError):
            tokens_file.from_bytes(bytes(damaged))
        with pytest.raises(tokens_file.TokenFileError):
            tokens_file.from_bytes(data[:place])
    with pytest.raises(tokens_file.TokenFileError):
        tokens_file.from_bytes(data + b"\0")


def resealed(offset, layout, value):
    """A file with one field of its header changed and a checksum that agrees, as somebody might forge it."""
    data = bytearray(tokens_file.to_bytes(made_file())[:-4])
    struct.pack_into(layout, data, offset, value)
    return bytes(data) + struct.pack("<I", zlib.crc32(data))


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (4, "B", 2),  # version
        (5, "B", 7),  # loop
        (6, "B", 0),  # levels
        (6, "B", 15),
        (7, "B", 16),  # bits
        (8, "<H", 0),  # hop
        (10, "<I", 0),  # sample rate
        (14, "<I", 0),  # samples
        (14, "<I", 2**32 - 1),
        (18, "<I", 2**32 - 1),  # steps
        (22, "<f", float("nan")),  # loudness
        (22, "<f", float("inf")),
        (34, "B", 255),  # length of the name
    ],
)
def test_forged_headers_are_refused(offset, layout, value):
    tokens_file.from_bytes(resealed(5, "B", 0))
    with pytest.raises(tokens_file.TokenFileError) as error:
        tokens_file.from_bytes(resealed(offset, layout, value))
    assert "\n" not in str(error.value)


def test_files_that_are_no_tokens(tmp_path):
    path = tmp_path / "big.vnt"
    for content, sentence in ((b"RIFF1234", "not a file of tokens"), (b"", "not a file"), (b"VNTK", "damaged")):
        path.write_bytes(content)
        with pytest.raises(tokens_file.TokenFileError, match=sentence):
            tokens_file.read(path)
    path.write_bytes(b"VNTK" + bytes(tokens_file.MAX_BYTES))
    with pytest.raises(tokens_file.TokenFileError, match="too large"):
        tokens_file.read(path)


def test_tokens_of_another_codec_are_refused():
    with pytest.raises(tokens_file.TokenFileError, match="made by the model 'other'"):
        tokens_file.expand(tiny_vampnet(), made_file(model="other"))


def test_tokens_that_cannot_be_written():
    for tokens in (torch.full((1, 14, 9), 1024), torch.zeros(2, 14, 9, dtype=torch.int64), torch.zeros(1, 14, 9)):
        with pytest.raises(ValueError, match="Tokens must"):
            tokens_file.to_bytes(made_file(tokens=tokens))


def test_a_name_that_the_terminal_cannot_show_is_no_failure(wav, model, tmp_path):
    command = [sys.executable, "-m", "vampnet", "vamp", str(wav), "-o", str(tmp_path / "\uac00"), "--model", str(model)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run([*command, "--steps", "1", "--device", "cpu"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "\\uac00" in done.stdout and list((tmp_path / "\uac00").glob("*.wav"))
