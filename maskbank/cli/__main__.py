"""`python -m maskbank.cli`: the command line without its script `maskbank`, as torchrun starts it."""

import sys

from maskbank.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
