"""Files in the format of the published weights: `torch.save` of {"state_dict": tensors, "metadata": {"kwargs": ...}}.

Nothing that such a file brings along is ever run: tensors and plain values are read, and all else is refused.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vampnet.sentences import Sentence
from vampnet.whole_file import whole_file

if TYPE_CHECKING:
    from torch import Tensor

ENTRIES = ("state_dict", "metadata")


@dataclass(frozen=True)
class Published:
    """What a file of the published format holds, as it is.

    Attributes:
        state: parameter name -> tensor of any shape and dtype, in the file's order (an OrderedDict where the file has one).
        metadata: plain values; `metadata["kwargs"]` are the options that the model was made with.
    """

    state: dict[str, Tensor]
    metadata: dict[str, Any]

    @property
    def kwargs(self) -> dict[str, Any]:
        """The options that the model was made with."""
        return self.metadata["kwargs"]


def read_published(path: str | os.PathLike) -> Published:
    """Read a file of the published format on the CPU, without running anything that is in it.

    The tensors are mapped from the file (if it is a zip, as `torch.save` has written since 2020): they take memory as they are
    read, which the system can take back, and the file must stay as it is while they are in use.

    Args:
        path: such as `codec.pth`, `coarse.pth` or `c2f.pth`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, could be read only by running code, or holds something else; the sentence says which.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(Sentence("There is no file {path}.", path=path))
    zipped = zipfile.is_zipfile(path)
    _check_container(path, zipped)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle protocol of files that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError:
        raise
    except Exception as error:  # a damaged file makes torch and its unpickler raise almost anything
        raise ValueError(_reason(path, error)) from error
    return _checked(path, content)


def write_published(path: str | os.PathLike, published: Published) -> Path:
    """Write a file of the published format; a file that is there is replaced once the new one is complete.

    Args:
        path: its folder is made if missing.
        published: is written as it is: order, dtypes and values of the tensors, and the metadata.

    Returns:
        The path.
    """
    import torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through a handle: torch puts the name of a file into it.
    with whole_file(path) as part, open(part, "wb") as handle:
        torch.save({"state_dict": published.state, "metadata": published.metadata}, handle)
    return path


def _check_container(path: Path, zipped: bool) -> None:
    """Raises a ValueError for what can be told from the outside of a file."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/.data/extern_modules") for name in names):
            raise ValueError(Sentence(
                "{path} is a torch.package archive: it carries program code, which is never run here. Take the plain file of "
                "the model, or save it again with audiotools as model.save(path, package=False).", path=path,
            ))  # fmt: skip
        if not any(name.endswith("/data.pkl") for name in names):
            raise ValueError(
                Sentence("{path} is a zip file without weights in it: name a file that torch.save wrote.", path=path)
            )
        return
    with open(path, "rb") as file:
        head = file.read(2)
    if head == b"PK":
        raise ValueError(Sentence("{path} is not complete or damaged: get it again.", path=path))
    if head[:1] != b"\x80":
        raise ValueError(Sentence("{path} does not hold weights: name a file that torch.save wrote.", path=path))


def _reason(path: Path, error: Exception) -> Sentence:
    needs = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if needs is not None:
        return Sentence(
            "{path} is refused, since it could be read only by running code that it names ({code}): "
            "take a file that holds tensors and plain values alone.", path=path, code=needs[1],
        )  # fmt: skip
    return Sentence(
        "{path} is damaged or not by torch.save ({kind}), and nothing in it was run: get it again.", path=path,
        kind=type(error).__name__,
    )  # fmt: skip


def _checked(path: Path, content: object) -> Published:
    """`content` as `Published`; ValueError if it is not {"state_dict": {name: tensor}, "metadata": {"kwargs": {...}}}."""
    from torch import Tensor

    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise ValueError(
            Sentence("{path} has no 'state_dict' and so is not in the format of the published weights.", path=path)
        )
    extra = sorted(str(key) for key in content if key not in ENTRIES)
    if extra:
        raise ValueError(Sentence(
            "{path} holds more than {known}, which would be lost here: {names}.", path=path, known=" and ".join(ENTRIES),
            names=", ".join(extra),
        ))  # fmt: skip
    state, metadata = content["state_dict"], content.get("metadata")
    if not isinstance(state, dict) or not state:
        raise ValueError(Sentence("The 'state_dict' of {path} holds no tensors by their names.", path=path))
    odd = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise ValueError(Sentence(
            "The 'state_dict' of {path} holds things that are not tensors: {names}.", path=path, names=", ".join(odd[:8]),
        ))  # fmt: skip
    if not isinstance(metadata, dict) or not isinstance(metadata.get("kwargs"), dict):
        raise ValueError(Sentence("{path} has no metadata with 'kwargs', so the shape of its model is not known.", path=path))
    return Published(state, metadata)
