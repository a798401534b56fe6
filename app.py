"""Opens the studio: chooses model and device, builds the page, serves it. Also the entry point of a Hugging Face Space."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from importlib.util import find_spec

from vampnet.gallery_place import add_options, open_gallery
from vampnet.own_folder import keep_uploads_apart
from vampnet.program import prepare

OWN_ADDRESSES = ("127.0.0.1", "localhost", "::1")


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Opens the VampNet studio in the browser.")
    parser.add_argument("--model", default="mini", help="a bundled model, a folder with one, or a hub repository (mini)")
    parser.add_argument("--device", default=None, help="cuda, mps or cpu (the best there is)")
    parser.add_argument("--host", default=None, help="address to listen on (127.0.0.1; 0.0.0.0 opens it to the network)")
    parser.add_argument("--port", type=int, default=None, help="port to listen on (the first free one from 7860)")
    parser.add_argument(
        "--browser", action=argparse.BooleanOptionalAction, default=None,
        help="open the page in the browser (only at a desktop, and where nobody else can reach the page)",
    )  # fmt: skip
    parser.add_argument("--share", action="store_true", help="also open a public link through gradio.live")
    parser.add_argument(
        "--models", action=argparse.BooleanOptionalAction, default=None,
        help="let visitors load other models, for everybody at once (only where nobody else can reach the page)",
    )  # fmt: skip
    parser.add_argument("--mcp", action="store_true", help="also offer the endpoints to language models, by MCP")
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.mcp and find_spec("mcp") is None:
        parser.error('--mcp needs one more package: python -m pip install "gradio[mcp]"')
    address = options.host or os.environ.get("GRADIO_SERVER_NAME") or OWN_ADDRESSES[0]
    alone = address in OWN_ADDRESSES and not options.share and "SPACE_ID" not in os.environ
    options.models = alone if options.models is None else options.models
    options.browser = alone and at_desktop() if options.browser is None else options.browser
    return options


def at_desktop() -> bool:
    """Whether whoever has started the program would see a browser that it opens."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def main(arguments: list[str] | None = None) -> None:
    """Serves the studio until it is stopped with Ctrl-C."""
    options = read_options(arguments)
    prepare()
    keep_uploads_apart()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C does it: visitors' files go
    from vampnet.studio.page import build
    from vampnet.studio.warm_up import warm_up
    from vampnet.studio.zero import open_shelf

    shelf = open_shelf(options.model, options.device, options.models)
    page, settings = build(shelf, gallery=open_gallery(options))
    # The page first: what is loaded at the same time would only keep it from opening.
    page.launch(
        server_name=options.host, server_port=options.port, share=options.share, prevent_thread_lock=True,
        inbrowser=options.browser, mcp_server=options.mcp, **settings,
    )  # fmt: skip
    shelf.loaded or shelf.start(options.model)
    threading.Thread(target=warm_up, args=(shelf,), name="warm-up", daemon=True).start()
    page.block_thread()


if __name__ == "__main__":
    main()
