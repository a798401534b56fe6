"""English. Keys are "room.what"; a translation has the same keys and the same {values}."""

TEXT: dict[str, str] = {
    "page.title": "VampNet Studio",
    "page.subtitle": "A loop goes in, variations of it come out: choose what stays, and the model plays the rest anew.",
    "programs.upload": "This is not an uploaded file: upload it first, with gradio_client by handle_file(path).",
    "programs.gone": "The uploaded file is no longer here: upload it again.",
    "programs.seconds": "seconds must lie in {low:g} to {high:g}, not {given}.",
    "programs.bars": "Whole bars are cut from a sound: give one, or leave bars off.",
    "programs.loop": "loop must be true or false, not {given}.",
    "programs.format": "format must be one of {known}, not {given}.",
    "programs.stopped": "Stopped; nothing was made.",
    "programs.failed": "The call failed ({error}): try again or change a setting.",
    "programs.unknown": "There is no vamp of this id, or it is more than an hour old: make it again.",
    "harp.input": "Loop",
    "harp.input_info": "The sound to vamp: 0.1 to 600 seconds.",
    "harp.output": "Take",
    "harp.output_info": "As long and as loud as the loop; another seed gives another take.",
}
