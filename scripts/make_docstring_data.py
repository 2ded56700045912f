"""Build the docstring data set of the demo: `python scripts/make_docstring_data.py --out data/docstrings`."""

from __future__ import annotations

import argparse
from pathlib import Path

from thresher.docstring_data import DocstringDataError, build


def main() -> None:
    """Parse the command line and build the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/docstrings"), help="directory to write to")
    for name, default in build.__kwdefaults__.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, default=default, metavar="N", help=name.replace("_", " "))
    options = vars(parser.parse_args())
    try:
        print(build(options.pop("out"), **options).describe())
    except DocstringDataError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
