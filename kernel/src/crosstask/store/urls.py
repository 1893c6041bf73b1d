"""URLs of stores as they may be shown."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

_USER = re.compile(r"(://[^:/?#@]*:)(.*)(?=@)")  # up to the last @: rather too much is hidden than too little
_ARGUMENT = re.compile(r"([?&;][^=&;]*(?:pass|pwd|secret|token)[^=&;]*=)([^&;#]+)", re.IGNORECASE)


def shown(url: str) -> str:
    """A URL with its passwords replaced by ***, whether or not it is a valid one."""
    return _ARGUMENT.sub(r"\1***", _USER.sub(r"\1***", url))


def secrets(url: str) -> list[str]:
    """The passwords in a URL, as they are written there and as a driver sees them; the longest first."""
    found = {each[2] for pattern in (_USER, _ARGUMENT) for each in pattern.finditer(url)}
    found |= {change(each) for each in list(found) for change in (unquote, unquote_plus)}
    found |= {change(each) for each in list(found) for change in (quote, quote_plus)}
    return sorted(filter(None, found), key=len, reverse=True)


def without_secrets(text: str, url: str) -> str:
    """A message that may name a URL, or parts of it, without its passwords."""
    text = text.replace(url, shown(url))
    for secret in secrets(url):
        # Whole words only: a short password could be part of any word
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    return text
