"""Run `python -m clrkit`."""

import sys

from clrkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
