"""English. Keys are "room.what"; a translation has the same keys and the same {values}."""

TEXT: dict[str, str] = {
    "page.title": "VampNet Studio",
    "page.subtitle": "A loop goes in, variations of it come out: choose what stays, and the model plays the rest anew.",
}
