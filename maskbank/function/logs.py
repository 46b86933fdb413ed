"""What the package itself logs, in Nuclio's log."""

import logging
from typing import Any


class NuclioHandler(logging.Handler):
    """Passes warnings and errors on to a logger of Nuclio's."""

    def __init__(self, logger: Any):
        super().__init__(logging.WARNING)
        self.logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record as a warning or an error."""
        write = self.logger.error if record.levelno >= logging.ERROR else self.logger.warn
        write(record.getMessage())


def log_to(logger: Any) -> None:
    """Sends the warnings of the stores to Nuclio's `logger`: a request may succeed in spite of them."""
    logging.getLogger("maskbank.store").handlers = [NuclioHandler(logger)]
