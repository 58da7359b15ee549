"""What a judgement is made from, and the pieces it is made of: values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tracker.agents import AgentClass


class Group(StrEnum):
    """Signals of one group see the same thing from two sides, so their soft points are capped."""

    NETWORK = "network"
    CLIENT = "client"
    REFERRER = "referrer"
    VELOCITY = "velocity"
    TIMING = "timing"
    IDENTITY = "identity"
    ORDER = "order"


class IvtClass(StrEnum):
    """General invalid traffic is found by lists and formats, sophisticated only by analysis."""

    GENERAL = "givt"
    SOPHISTICATED = "sivt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Facts about a click, or about a conversion together with the click it is attributed to.

    None means "not known", and what is not known is never suspicious: clicks taken over from
    another network come with little more than their time. Header values are as received.
    """

    is_conversion: bool = False
    has_click: bool = True
    imported: bool = False
    agent_class: AgentClass | None = None
    user_agent_empty: bool | None = None
    sec_fetch_dest: str | None = None
    sec_fetch_mode: str | None = None
    sec_fetch_user: str | None = None
    sec_purpose: str | None = None
    is_hosting: bool | None = None
    referrer_class: str | None = None
    click_country: str | None = None
    order_country: str | None = None
    seconds_click_to_order: int | None = None
    # Clicks of this visitor on this program, this one included.
    duplicate_clicks: int | None = None  # in the last 60 seconds
    visitor_clicks_hour: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One signal that fired. `points` are hundredths of log-odds, so that they add up exactly.

    `hard` evidence is not capped and can hold by itself. `tags` asks for at least a mark for the
    reviewer, whatever the score. `billable` False: the event does not count as a click.
    """

    code: str
    group: Group
    points: int
    ivt_class: IvtClass
    text: str
    hard: bool = False
    tags: bool = False
    billable: bool = True
    value: str | int | None = None
    baseline: str | int | None = None
    facts: Mapping[str, str | int] = field(default_factory=dict)
