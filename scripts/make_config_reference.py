"""Write the reference page of the config: `python scripts/make_config_reference.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from thresher.reference import config_reference


def main() -> None:
    """Parse the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    page = Path(__file__).parents[1] / "docs" / "config.md"
    parser.add_argument("--out", type=Path, default=page, help="the file to write")
    parser.parse_args().out.write_text(config_reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
