"""`python -m thresher`, and so `accelerate launch -m thresher run CONFIG`."""

from thresher.cli import main

if __name__ == "__main__":
    main()
