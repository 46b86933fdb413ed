"""The secret that requests must have where the administrator chose one."""

import hmac
from collections.abc import Mapping

TOKEN_HEADER = "X-MaskBank-Token"


def has_token(headers: Mapping[str, str], token: str | None) -> bool:
    """Whether a request with these headers may be answered. Without a token, every one may."""
    if token is None:
        return True
    given = next((value for name, value in headers.items() if name.lower() == TOKEN_HEADER.lower()), "")
    return hmac.compare_digest(str(given).encode(), token.encode())
