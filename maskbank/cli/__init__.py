"""The command line: `maskbank track | job | review | search | propose | evaluate | train | folds | serve | …`."""

from maskbank.cli.entry import main

__all__ = ["main"]
