"""Run a study: accelerate launch scripts/tune.py CONFIG (or python scripts/tune.py CONFIG on one device)."""

import sys

from thresher.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
