"""Run a study, and keep a picture of its live view: python scripts/record_live_view.py CONFIG PICTURE.svg SECONDS"""

import argparse
import io
import threading
from pathlib import Path

from rich.console import Console


class Terminal(Console):
    def set_live(self, live):  # rich calls it when the view begins
        self.live = live
        return super().set_live(live)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in {"config": Path, "picture": str, "seconds": float}.items():
        parser.add_argument(name, type=kind)
    args = parser.parse_args()
    from controller.executors.world import World
    from thresher.config import load_config
    from thresher.study import run_study

    terminal = Terminal(file=io.StringIO(), force_terminal=True, force_interactive=True, width=110, height=40)
    film = Console(file=io.StringIO(), record=True, width=110, height=40)
    threading.Timer(args.seconds, lambda: film.print(terminal.live.get_renderable())).start()
    run_study(load_config(args.config), World(), terminal)
    film.save_svg(args.picture, title="thresher run")
