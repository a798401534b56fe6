"""What every endpoint for programs needs: checks of what is given, files that are given back, and its description.

Gradio hands over the raw values (`gr.api`), so every value is checked here before it is used.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import gradio as gr
from gradio import FileData
from gradio.context import get_blocks_context
from gradio.utils import get_function_description, get_function_params, get_upload_folder

from vampnet.config import TUNED, CancelledError, Sampling
from vampnet.studio.controls import DEFAULTS, NAMES, Control, Request, read_request, whole_depth
from vampnet.studio.shelf import Shape
from vampnet.studio.text import say
from vampnet.vamp import FORMATS

log = logging.getLogger(__name__)
MOST_WORK = 200_000
"""Seconds of music times takes, steps and rounds of feedback of one call: some twenty minutes of two CPU cores."""


def uploaded(given: Any) -> Path:
    """The path of a file that was uploaded.

    Raises:
        ValueError: it is anything else, such as a path on this computer.
    """
    # Only what is marked as a file was looked at by Gradio.
    meta = given.get("meta") if isinstance(given, dict) else None
    path = given.get("path") if isinstance(meta, dict) and meta.get("_type") == "gradio.FileData" else None
    folder = Path(get_upload_folder()).resolve()
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(folder):
        raise ValueError(say("programs.upload"))
    if not Path(path).is_file():
        raise ValueError(say("programs.gone"))
    return Path(path)


def read_options(options: dict[str, Any], shape: Shape) -> Request:
    """The fields of a prompt and of sampling, takes, seed, loop and bars -> what is asked for; what is missing is the default.

    Args:
        options: by name.
        shape: of the model, whose defaults are taken.

    Raises:
        ValueError: a value is out of its range; the sentence says which and what is allowed.
    """
    given = {name: value for name, value in options.items() if value is not None}
    plain = {**DEFAULTS, **vars(shape.sampling), "loop": False, **given}
    if not isinstance(plain["loop"], bool):
        raise ValueError(say("programs.loop", given=repr(plain["loop"])))
    request = read_request(whole_depth([plain[name] for name in NAMES], shape.levels))
    prompt, sampling = (
        replace(known, **{field.name: _clean(field, plain[field.name]) for field in fields(known) if field.name not in NAMES})
        for known in (request.prompt, request.sampling)
    )
    return replace(request, prompt=prompt, sampling=sampling)


def _clean(field: Field[Any], value: Any) -> Any:
    """JSON knows no tuples, and some programs write 7 as 7.0."""
    if isinstance(value, list):
        return tuple(value)
    whole = isinstance(field.default, int) and isinstance(value, float) and math.isfinite(value) and value == int(value)
    return int(value) if whole else value


def check_work(request: Request, seconds: float) -> None:
    """ValueError if a vamp of a clip of so many seconds is more work than one call may ask for: nobody can stop another's."""
    sampling = request.sampling
    whole = seconds + sum(request.extend)
    asked = whole * request.takes * (sampling.coarse_runs + sampling.fine_steps) * max(1, sampling.feedback)
    if asked > MOST_WORK:
        raise ValueError(say("programs.work", times=f"{asked / MOST_WORK:.1f}"))


def check_format(format: Any) -> None:
    """ValueError if sound cannot be written like that."""
    if format not in FORMATS:
        raise ValueError(say("programs.format", known=", ".join(FORMATS), given=repr(format)))


# ------------------------------------------------------------------------------------------------------- what is given back


def file_of(path: Path) -> dict[str, Any]:
    """A file as Gradio gives it to a program; it makes a copy that it deletes when it is old."""
    return FileData(path=str(path), orig_name=path.name).model_dump()


@contextmanager
def plain_errors(given: Any = None) -> Iterator[None]:
    """Turns every error into one sentence for the program, without a traceback and without paths of this computer."""
    path = given.get("path") if isinstance(given, dict) else None
    try:
        yield
    except CancelledError as error:
        raise gr.Error(say("programs.stopped"), print_exception=False) from error
    except (ValueError, OSError) as error:
        sentence = str(error) if isinstance(error, ValueError) else say("programs.failed", error=type(error).__name__)
        sentence = sentence.replace(str(path), Path(str(path)).name) if path else sentence
        raise gr.Error(sentence, print_exception=False) from error
    except gr.Error:
        raise
    except Exception as error:
        log.error("A program's call failed", exc_info=error)
        raise gr.Error(say("programs.failed", error=type(error).__name__), print_exception=False) from error


# ------------------------------------------------------------------------------------------------------------- registration


def add_endpoint(
    method: Callable[..., Any], name: str, kinds: Sequence[type] = (), controls: Sequence[Control] = (), **options: Any
) -> None:
    """Adds `method` to the `gr.Blocks` around it as the endpoint `/name`, with all that its docstring says.

    Args:
        method: with type hints; "Args" of its docstring describe the parameters, "Returns" has a line "name: what it is" for
            each value. Its `**options`, if it has any, become one parameter for every field of `kinds` and every control.
        name: no other event may have it already.
        kinds: option classes, the home of defaults, whose docstrings describe their fields under "Attributes".
        controls: of the page.
        options: of `gr.api`.
    """
    function = _written_out(method, kinds, controls)
    gr.api(function, api_name=name, **options)
    added = list(get_blocks_context().fns.values())[-1]
    if added.api_name != name:
        raise ValueError(f"There is another endpoint called '{name}': add this one before it.")
    _, about, returned = get_function_description(function)
    for component, (parameter, *_, hint) in zip(added.inputs, get_function_params(function), strict=True):
        component.label = parameter
        if hint is FileData:
            # In the examples of the API page.
            component.example_payload = partial(handle_file_like, "loop.wav")
        component._api_info = {**component._api_info, "additional_description": about[parameter]}
    # A line without a name goes on with the one before.
    lines = re.split(r"\n(?=\w+: )", "\n".join(returned))
    for component, line in zip(added.outputs, lines, strict=False):
        component.label, _, what = " ".join(line.split()).partition(": ")
        component._api_info = {**component._api_info, "description": what}


def handle_file_like(name: str) -> dict[str, Any]:
    """A file as the API page shows one that is to be uploaded."""
    return {"path": name, "meta": {"_type": "gradio.FileData"}, "orig_name": name, "url": name}


def _written_out(method: Callable[..., Any], kinds: Sequence[type], controls: Sequence[Control]) -> Callable[..., Any]:
    """A function with the parameters of `method`, those behind its `**options` written out, that Gradio can look into."""
    hints, place = get_type_hints(method), inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is place
    ]
    about: dict[str, str] = {}
    for kind in kinds:
        about.update(attributes_of(kind))
        for field, hint in zip(fields(kind), get_type_hints(kind).values(), strict=True):
            # Gradio has no words for a pair.
            hint = list[float] | None if field.name == "region" else hint
            own = kind is Sampling and field.name in TUNED
            hint, default = (hint | None, None) if own else (hint, field.default)
            if own:
                about[field.name] += f" null: the model's default; {field.default:g} for the bundled one."
            parameters.append(inspect.Parameter(field.name, place, default=default, annotation=hint))
    for control in controls:
        value = DEFAULTS[control.name]
        parameters.append(inspect.Parameter(control.name, place, default=value, annotation=type(value)))
    names, steps = [parameter.name for parameter in parameters], inspect.isgeneratorfunction(method)

    def answer(*given: Any) -> Any:
        return method(**dict(zip(names, given, strict=True)))

    def answers(*given: Any) -> Any:
        yield from method(**dict(zip(names, given, strict=True)))

    function = answers if steps else answer
    returned = get_args(hints["return"])[0] if steps else hints["return"]
    function.__signature__ = inspect.Signature(parameters, return_annotation=returned)
    function.__annotations__ = {**{parameter.name: parameter.annotation for parameter in parameters}, "return": returned}
    function.__name__, function.__doc__ = method.__name__, _with_lines(inspect.getdoc(method) or "", about)
    return function


def attributes_of(kind: type) -> dict[str, str]:
    """{field: its description in one line} from the docstring of an option class."""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^ {4}(?=\w+: )", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, _, text in (entry.partition(": ") for entry in entries)}


def _with_lines(doc: str, about: dict[str, str]) -> str:
    """A docstring with more entries under "Args:"."""
    lines = "".join(f"    {name}: {text}\n" for name, text in about.items())
    head, mark, tail = doc.partition("\nReturns:")
    return f"{head.rstrip()}\n{lines}{mark}{tail}"
