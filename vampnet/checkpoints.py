"""A name -> files -> models: the one door to everything that can be loaded.

A checkpoint is a folder in one of the two formats of `vampnet.layout`, on disk or in a repository of the Hugging Face Hub.
Ours has `config.json` (sections "codec", "coarse", "fine"; "sha256": {file name: hex digest} where it was sealed with
`write_checksums`; and "sampling" where the model has defaults of its own for fields of `Sampling`). Loading is strict,
checksums are verified where they are given, and no code in a file is ever run.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vampnet import hub, layout
from vampnet.catalogue import Entry, catalogue
from vampnet.checksums import checkpoint_config, verify_checksums, weights_id, write_checksums
from vampnet.config import PUBLISHED, Sampling
from vampnet.hub_errors import Damaged, ModelUnavailable, not_cached
from vampnet.layout import FOLDER_VARIABLE, PARTS, WEIGHTS, bundled_folder, bundled_models, is_checkpoint
from vampnet.sentences import Sentence, sentence_of

if TYPE_CHECKING:
    import torch

    from vampnet.codec import Codec
    from vampnet.model.transformer import TokenTransformer

__all__ = [
    "DEFAULT", "FOLDER_VARIABLE", "WEIGHTS", "Entry", "Located", "ModelUnavailable", "Models", "bundled_folder",
    "bundled_models", "catalogue", "find", "is_checkpoint", "load", "load_codec_of", "locate",
    "verify_checksums", "weights_id", "write_checksums",
]  # fmt: skip

DEFAULT = "mini"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class Models:
    """What a checkpoint holds, in eval mode and on one device.

    Attributes:
        name: as a person would name it: "mini", the name of the folder, or "owner/repo:style".
        codec: audio <-> tokens.
        coarse: transformer of the coarse levels.
        fine: transformer of the other levels, given the coarse ones.
        paths: as of `Located`, where they were read.
        sampling: how takes are drawn where nobody says otherwise.
    """

    name: str
    codec: Codec
    coarse: TokenTransformer
    fine: TokenTransformer
    paths: dict[str, Path]
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Located:
    """Where the parts of a model are.

    Attributes:
        name: see `Models.name`.
        paths: {part of "codec", "coarse", "fine": a folder in our format, or a file in the published one}.
    """

    name: str
    paths: dict[str, Path]


# ------------------------------------------------------------------------------------------------------------------ names


def _local(text: str) -> Path | None:
    """The folder that a name means: a bundled one comes first; "./mini" is the path. None if there is none."""
    plain = text not in ("", ".", "..") and Path(text).name == text
    for folder in ([bundled_folder() / text] if plain else []) + [Path(os.path.expanduser(text))]:
        if text and folder.is_dir():
            return folder
    return None


def _unknown(text: str) -> FileNotFoundError:
    known = ", ".join(f"'{model}'" for model in bundled_models()) or Sentence("none in {folder}", folder=bundled_folder())
    return FileNotFoundError(Sentence(
        "There is no model '{text}': name a bundled model ({known}), a repository of the hub as 'owner/repo', or a folder "
        "that holds config.json, {weights} and {last}.", text=text, known=known, weights=", ".join(WEIGHTS[:-1]),
        last=WEIGHTS[-1],
    ))  # fmt: skip


def _split(text: str) -> tuple[str, str | None]:
    """A name without its fine-tune, and the fine-tune: "owner/repo:choir" -> ("owner/repo", "choir")."""
    base, colon, style = text.rpartition(":")
    if not colon or not base or _local(text) or (_DRIVE.match(text) and len(base) == 1) or "://" in text:
        return text, None
    return base, layout.check_style(style)


def find(name: str | Path, weights: Sequence[str] = WEIGHTS) -> Path:
    """The folder of a checkpoint in our format that is on disk.

    Args:
        name: of a bundled checkpoint, or the path of a folder. A bundled one comes first; "./mini" is the path.
        weights: the files it must hold beside `config.json`, for those who need one model only.

    Raises:
        FileNotFoundError: there is no such checkpoint, or files of it are missing; the sentence says what to do.
    """
    folder = _local(os.fspath(name))
    if folder is None:
        raise _unknown(os.fspath(name))
    missing = [file for file in ("config.json", *weights) if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            Sentence("The checkpoint {folder} is not complete: {missing} missing.", folder=folder, missing=", ".join(missing))
        )
    return folder


def locate(
    name: str | Path = DEFAULT,
    revision: str | None = None,
    needed: Collection[str] = PARTS,
    on_download: hub.OnDownload | None = None,
) -> Located:
    """The files of a model, downloaded where they are not on disk. What the hub's cache holds is used without asking the hub.

    Args:
        name: "mini" or another bundled model; a folder in either format; "owner/repo" or "owner/repo@revision" on the hub;
            and with ":style" behind any of these a fine-tune of it. What is bundled comes first, then folders.
        revision: of a repository: a branch, a tag or a commit; the branch main where none is given.
        needed: the parts wanted, of "codec", "coarse", "fine".
        on_download: called with (file name, bytes there, bytes in all) while a file is fetched; it may raise `CancelledError`.

    Raises:
        FileNotFoundError: there is no such model, or it cannot be had (`ModelUnavailable`); the sentence says what to do.
        ValueError: the name or the revision cannot be one.
        CancelledError: raised by `on_download`.
    """
    text = os.fspath(name)
    base, style = _split(text)
    folder, title = _local(base), base
    if folder is not None:
        if revision is not None:
            raise ValueError(Sentence("'{base}' is a folder, which has no revisions: leave the revision out.", base=base))
        chosen = layout.choose(layout.files_of(folder), Sentence("The checkpoint {folder}", folder=folder), needed, style)
        title = folder.resolve().name
    else:
        repo, at, named = base.partition("@")
        if not hub.is_repo(repo):
            raise _unknown(text)
        if at and revision not in (None, named):
            raise ValueError(
                Sentence("'{base}' names another revision than '{revision}': give one of them.", base=base, revision=revision)
            )
        wanted = hub.check_revision(named if at else "main" if revision is None else revision)
        title = repo if wanted == "main" else f"{repo}@{wanted}"
        folder, chosen = _from_hub(repo, wanted, needed, style, on_download)
    paths = {part: folder if file in WEIGHTS else folder / file for part, file in chosen.items()}
    return Located(title if style is None else f"{title}:{style}", paths)


def _from_hub(
    repo: str, revision: str, needed: Collection[str], style: str | None, on_download: hub.OnDownload | None
) -> tuple[Path, dict[str, str]]:
    """The folder of the cache that holds the parts of a model in a repository, and {part: file name}."""
    folder = hub.snapshot(repo, revision)
    if folder is not None:
        try:
            return folder, layout.choose(layout.files_of(folder), f"'{repo}'", needed, style)
        except ModelUnavailable:
            pass  # not all of it is here yet
    if hub.is_offline():
        raise not_cached(repo if style is None else f"{repo}:{style}")
    listed = hub.listing(repo, revision)
    chosen = layout.choose(listed.sizes, f"'{repo}'", needed, style)
    config = ["config.json"] if any(name in WEIGHTS for name in chosen.values()) else []
    return hub.fetch(listed, [*config, *chosen.values()], on_download), chosen


# ---------------------------------------------------------------------------------------------------------------- loading


def load(
    name: str | Path = DEFAULT,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    codec: str | Path | None = None,
    coarse: str | Path | None = None,
    fine: str | Path | None = None,
    on_download: hub.OnDownload | None = None,
) -> Models:
    """The models of a checkpoint, in eval mode, float32, on `device`.

    Args:
        name: as in `locate`.
        device: "cpu", "cuda", "mps" or a torch.device.
        revision: as in `locate`.
        codec: a single file in the published format (`codec.pth`) that takes the place of the codec of `name`.
        coarse: the same for the coarse model (`coarse.pth`).
        fine: the same for the fine model (`c2f.pth`). With all three, `name` is not looked at.
        on_download: as in `locate`.

    Raises:
        FileNotFoundError: as `locate`, or a single file is missing.
        ValueError: a file is damaged, is not the one that the checksum is of, needs code to be read, or does not fit.
        CancelledError: raised by `on_download`.
    """
    files = zip(PARTS, (codec, coarse, fine), strict=True)
    single = {part: Path(os.path.expanduser(file)) for part, file in files if file is not None}
    for part, file in single.items():
        if not file.is_file():
            raise FileNotFoundError(f"There is no file {file}: name the {layout.PUBLISHED_FILES[part]} that is to be loaded.")
    needed = [part for part in PARTS if part not in single]
    located = locate(name, revision, needed, on_download) if needed else Located("", {})
    paths = located.paths | single
    title = " + ".join(filter(None, (located.name, *(file.name for file in single.values()))))
    try:
        codec_model, coarse_model, fine_model = _read(paths)
        with _named(paths["coarse"]):
            sampling = _sampling_of(paths["coarse"])
    except ValueError as error:
        files = [path / file for path in paths.values() if path.is_dir() for file in ("config.json", *WEIGHTS)]
        files += [path for path in paths.values() if path.is_file()]
        damaged = hub.discard_damaged(file for file in files if file.is_file())
        if damaged:
            what = ", ".join(damaged)
            raise Damaged(Sentence(
                "{what} of '{title}' was damaged on the disk and has been deleted: load the model again.", what=what,
                title=title,
            )) from error  # fmt: skip
        raise
    coarse_model, fine_model = (model.requires_grad_(False).to(device) for model in (coarse_model, fine_model))
    return Models(title, codec_model.to(device), coarse_model, fine_model, paths, sampling)


def load_codec_of(name: str | Path = DEFAULT, device: str | torch.device = "cpu") -> Codec:
    """The codec of a model alone, in eval mode on `device`; the transformers need not be there. `name` as in `locate`.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    from vampnet.device import usable_device

    path = locate(name, needed=("codec",)).paths["codec"]
    if path.is_dir():
        verify_checksums(path, [layout.OUR_FILES["codec"]])
    device = usable_device(device)
    with _named(path):
        codec = _read_codec(path)
    return codec.to(device)


def _read(paths: dict[str, Path]) -> tuple[Codec, TokenTransformer, TokenTransformer]:
    """The three models on the CPU, which fit together; ValueError for everything that a file can be wrong in."""
    for folder in {path for path in paths.values() if path.is_dir()}:
        verify_checksums(folder, [file for part, file in layout.OUR_FILES.items() if paths[part] == folder])
    with _named(paths["codec"]):
        codec = _read_codec(paths["codec"])
    coarse, fine = (_read_transformer(paths[which], which, codec) for which in ("coarse", "fine"))
    if fine.config.n_codebooks != codec.n_codebooks or fine.config.n_conditioning != coarse.config.n_codebooks:
        where = ", ".join(dict.fromkeys(str(path) for path in paths.values()))
        raise ValueError(Sentence(
            "The models of {where} do not fit together: the codec has {levels} levels, the coarse model {coarse}, and the "
            "fine one reads {fine} of which it is given {given}.", where=where, levels=codec.n_codebooks,
            coarse=coarse.config.n_codebooks, fine=fine.config.n_codebooks, given=fine.config.n_conditioning,
        ))  # fmt: skip
    return codec, coarse, fine


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Makes one ValueError, which names the folder or file, of what goes wrong in it."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            Sentence("The checkpoint {path} cannot be loaded ({reason}): get its files again.", path=path, reason=reason)
        ) from error
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(Sentence("{path} cannot be loaded. {error}", path=path, error=sentence_of(error))) from error


def _read_codec(path: Path) -> Codec:
    from vampnet.codec import load_codec

    if path.is_dir():
        return load_codec(path)
    from vampnet.codec.published import codec_from_published
    from vampnet.published import read_published

    published = read_published(path)
    return codec_from_published(published.state, published.metadata)


def _read_transformer(path: Path, which: str, codec: Codec) -> TokenTransformer:
    from vampnet.model.files import load_transformer

    with _named(path):
        vectors = codec.codebook_vectors()
        if path.is_dir():
            return load_transformer(path, which, vectors, codec.grid)
        from vampnet.model.published import transformer_from_published
        from vampnet.published import read_published

        published = read_published(path)
        return transformer_from_published(published.state, published.kwargs, vectors, codec.grid)


def _sampling_of(path: Path) -> Sampling:
    """How takes of this coarse model are drawn where nobody says otherwise: by the section `sampling` of `config.json`."""
    config = checkpoint_config(path) if path.is_dir() else {"coarse": {"type": "published"}}
    if "sampling" in config:
        return Sampling(**config["sampling"])
    return PUBLISHED if config["coarse"].get("type") == "published" else Sampling()
