"""Run the command line as `python -m emotion_perception`."""

import sys

from emotion_perception.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
