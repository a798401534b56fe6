"""Puts the studio on a Hugging Face Space: makes it if it is missing, uploads what it needs, sets its variables and hardware.

    python scripts/deploy_space.py owner/name --dry-run        what would be done, with every file and its size
    python scripts/deploy_space.py owner/name --hardware zero-a10g --variable VAMPNET_GALLERY_REPO=owner/vamps

The account is that of `hf auth login` or HF_TOKEN. Files that an earlier version had and this one has not are deleted there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NEEDED = (
    "app.py", "README.md", "LICENSE", "requirements.txt", "packages.txt", "assets", "checkpoints", "vampnet", "docs/studio.png",
    "docs/results/card",
)  # fmt: skip
"""Files and folders of the program; what is not there is left out."""
UNUSED = ("vampnet/train", "vampnet/evaluate", "vampnet/bench")
"""Parts of them that the studio never imports."""
ENDINGS = {
    "", ".css", ".flac", ".html", ".js", ".json", ".md", ".mp3", ".ogg", ".png", ".py", ".safetensors", ".svg", ".txt", ".wav",
    ".yaml",
}  # fmt: skip
"""A file of any other kind is somebody's own and stays here."""


def files_of(root: Path = ROOT) -> list[tuple[str, int]]:
    """What a Space needs: (path below `root` with slashes, bytes), sorted by path."""
    found = []
    for name in NEEDED:
        for path in _walk(root / name):
            relative = path.relative_to(root).as_posix()
            if not relative.startswith(tuple(f"{folder}/" for folder in UNUSED)):
                found.append((relative, path.stat().st_size))
    return sorted(found)


def _walk(path: Path) -> Iterator[Path]:
    """Regular files at or below `path`: none that are hidden, cached, linked or of an unknown kind."""
    if path.is_symlink() or path.name.startswith(".") or path.name == "__pycache__":
        return
    if path.is_dir():
        for inner in path.iterdir():
            yield from _walk(inner)
    elif path.is_file() and path.suffix.lower() in ENDINGS:
        yield path


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Puts the studio on a Hugging Face Space.")
    parser.add_argument("space", help="owner/name")
    parser.add_argument("--hardware", help="such as cpu-basic, zero-a10g, t4-small (as it is; cpu-basic for a new one)")
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    parser.add_argument("--variable", action="append", default=[], metavar="NAME=VALUE", help="may be given more than once")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done; needs no network")
    options = parser.parse_args(arguments)
    if options.space.count("/") != 1 or not all(options.space.split("/")):
        parser.error(f"the Space is named as owner/name, not '{options.space}'")
    for given in options.variable:
        if not given.partition("=")[0].isidentifier() or "=" not in given:
            parser.error(f"a variable is given as NAME=VALUE, not '{given}'")
    from huggingface_hub import SpaceHardware

    known = [item.value for item in SpaceHardware]
    if options.hardware not in (None, *known):
        parser.error(f"'{options.hardware}' is no hardware of a Space: choose one of {', '.join(known)}")
    options.variables = dict(given.split("=", 1) for given in options.variable)
    return options


def deploy(options: argparse.Namespace, files: list[tuple[str, int]], api: Any) -> str:
    """Does it.

    Args:
        options: of `read_options`.
        files: of `files_of`.
        api: `huggingface_hub.HfApi()` or what stands in for it.

    Returns:
        The address of the Space.
    """
    space = {"repo_id": options.space, "repo_type": "space"}
    # Before the files, so that it does not start without them.
    address = api.create_repo(**space, space_sdk="gradio", private=options.private or None, exist_ok=True)
    for name, value in options.variables.items():
        api.add_space_variable(options.space, name, value)
    if options.hardware:
        api.request_space_hardware(options.space, options.hardware)
    api.upload_folder(
        **space, folder_path=ROOT, allow_patterns=[path for path, _ in files], delete_patterns="*",
        commit_message="Update the studio",
    )  # fmt: skip
    return str(address)


def main(arguments: Sequence[str] | None = None, api: Any = None) -> int:
    """Runs the command and returns its exit status."""
    options, files = read_options(arguments), files_of()
    for path, size in files:
        print(f"{size:>12,}  {path}")
    print(f"{sum(size for _, size in files):>12,}  bytes in {len(files)} files")
    for name, value in options.variables.items():
        print(f"variable {name}={value}")
    if options.hardware:
        print(f"hardware {options.hardware}")
    if options.dry_run:
        print(f"Nothing was uploaded; without --dry-run this goes to the Space {options.space}.")
        return 0
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    try:
        print(f"The studio is at {deploy(options, files, api)}")
    except Exception as error:  # of the network or the account: one sentence is enough
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
