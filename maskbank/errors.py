"""The errors a request can earn: an HTTP status and one sentence for the annotator."""

START_AGAIN = "start tracking again"


class RequestError(ValueError):
    """A request that is refused; the text is one clear sentence, `status` the HTTP code."""

    status = 400


class UnauthorizedError(RequestError):
    """The request lacks the token that the administrator chose."""

    status = 401


class TooLargeError(RequestError):
    """Something in the request is over a limit (bytes, pixels, objects)."""

    status = 413


class ExpiredError(RequestError):
    """The tracker does not have the memory that a state names."""

    status = 410


class ForeignModelError(ExpiredError):
    """The memory that a state names was made by another model or with other weights."""

    def __init__(
        self, sentence: str = f"These objects were tracked with another model or other weights; {START_AGAIN}."
    ) -> None:
        super().__init__(sentence)


class ForeignVersionError(ExpiredError):
    """The memory that a state names was stored in another format."""

    def __init__(
        self, sentence: str = f"These objects were tracked by another version of the tracker; {START_AGAIN}."
    ) -> None:
        super().__init__(sentence)


class UnavailableError(RequestError):
    """The store does not answer; the same request may succeed later."""

    status = 503

    def __init__(self, sentence: str = "The tracker's memory is unreachable; try again.") -> None:
        super().__init__(sentence)


class LateError(UnavailableError):
    """The request cannot be answered in the time that whoever asked waits for it."""

    def __init__(
        self, sentence: str = "The tracker is too slow for this just now; try again, or with fewer objects."
    ) -> None:
        super().__init__(sentence)
