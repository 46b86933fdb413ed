"""The errors a request can earn: an HTTP status and one sentence for the annotator."""


class RequestError(ValueError):
    """A request that is refused; the text is one clear sentence, `status` the HTTP code."""

    status = 400


class TooLargeError(RequestError):
    """Something in the request is over a limit (bytes, pixels, objects)."""

    status = 413


class ExpiredError(RequestError):
    """The tracker no longer has the bank that a state names."""

    status = 410


class ForeignBankError(ExpiredError):
    """The bank that a state names was made by another model, or in another format."""


class UnavailableError(RequestError):
    """The store does not answer; the same request may succeed later."""

    status = 503
