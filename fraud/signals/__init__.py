"""One file a signal. A signal reads the evidence and says what it found, or nothing."""

from collections.abc import Sequence
from typing import Protocol

from fraud.evidence import Evidence, Finding
from fraud.signals import (
    bot_user_agent,
    click_flood,
    country_flip,
    duplicate_clicks,
    embedded_click,
    empty_user_agent,
    fast_order,
    hosting_network,
    prefetch,
    tool_user_agent,
)


class Signal(Protocol):
    """What every file of this package offers; the texts are what the reference shows."""

    CODE: str
    NAME: str
    DESCRIPTION: str
    INNOCENT: str
    DEFAULT: str
    SOURCE: str

    def find(self, evidence: Evidence) -> Finding | None:
        """Return what was found, or None when the facts are missing or ordinary."""


SIGNALS: Sequence[Signal] = (
    bot_user_agent,
    tool_user_agent,
    empty_user_agent,
    hosting_network,
    embedded_click,
    prefetch,
    duplicate_clicks,
    click_flood,
    fast_order,
    country_flip,
)
