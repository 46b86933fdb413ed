"""`python -m maskbank.store`: the store's commands in the function's image, which has no others."""

import sys

from maskbank.store.commands import main

if __name__ == "__main__":
    sys.exit(main())
