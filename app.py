"""Opens the studio: chooses model and device, builds the page, serves it. Also the entry point of a Hugging Face Space."""

from __future__ import annotations

import argparse
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vampnet.pipeline import VampNet


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Opens the VampNet studio in the browser.")
    parser.add_argument("--model", default="mini", help="name of a bundled model, or a folder with one (mini)")
    parser.add_argument("--device", default=None, help="cuda, mps or cpu (the best there is)")
    parser.add_argument("--host", default=None, help="address to listen on (127.0.0.1; 0.0.0.0 opens it to the network)")
    parser.add_argument("--port", type=int, default=None, help="port to listen on (the first free one from 7860)")
    parser.add_argument("--share", action="store_true", help="also open a public link through gradio.live")
    return parser.parse_args(arguments)


def load_in_background(future: Future[VampNet], name: str, device: str | None) -> None:
    """Fulfils the future of a model in a thread that does not keep the program from ending."""

    def load() -> None:
        try:
            from vampnet.pipeline import VampNet

            future.set_result(VampNet.from_pretrained(name, device))
        except Exception as error:  # the page says what is wrong
            future.set_exception(error)
        from vampnet import beats

        beats.warm_up()

    threading.Thread(target=load, name="load-model", daemon=True).start()


def main(arguments: list[str] | None = None) -> None:
    """Serves the studio until it is stopped with Ctrl-C."""
    options = read_options(arguments)
    from vampnet.studio.page import build

    model: Future[VampNet] = Future()
    page, settings = build(model)
    # The page first: what is loaded at the same time would only keep it from opening.
    page.launch(
        server_name=options.host, server_port=options.port, share=options.share, prevent_thread_lock=True, **settings
    )  # fmt: skip
    load_in_background(model, options.model, options.device)
    page.block_thread()


if __name__ == "__main__":
    main()
