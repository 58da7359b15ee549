"""The parties and terms of the demo network: four programs in four currencies, eight publishers.

Everything is invented; domains end in `.example`. Passwords and keys are derived from the
installation's own secret, so two installations never share a login.
"""

from dataclasses import dataclass
from typing import Any

# fmt: off
EU = [
    "AT", "BE", "BG", "HR", "CY", "CZ", "DK", "EE", "FI",
    "FR", "DE", "GR", "HU", "IE", "IT", "LV", "LT", "LU",
    "MT", "NL", "PL", "PT", "RO", "SK", "SI", "ES", "SE",
]
# fmt: on
REGIONS: dict[str, list[str]] = {
    "UKI": ["GB", "IE", "JE", "GG", "IM"],
    "EU": EU,
    "DACH": ["DE", "AT", "CH"],
    "LATAM": ["AR", "BO", "BR", "CL", "CO", "CR", "EC", "MX", "PE", "UY"],
    "APAC": ["AU", "CN", "HK", "ID", "JP", "KR", "MY", "NZ", "SG", "TH", "TW", "VN"],
    "NORTH_AMERICA": ["US", "CA"],
}


@dataclass(frozen=True, slots=True)
class DemoProgram:
    """A program with what its shoppers look like."""

    advertiser: str
    login: str
    code: str
    name: str
    currency: str
    timezone: str
    domain: str
    countries: tuple[tuple[str, int], ...]
    basket_minor: tuple[int, int]
    goods: tuple[tuple[str, str], ...]
    rules: tuple[dict[str, Any], ...]
    # When the monthly tiers were raised, and to what: (instant, levels).
    raised: tuple[str, tuple[tuple[int, str], ...]] | None = None


@dataclass(frozen=True, slots=True)
class DemoPublisher:
    """A publisher and how much of a program's traffic it sends."""

    code: str
    name: str
    weight: int


def _graduated(name: str, when: dict[str, list[str]], *levels: tuple[int, str]) -> dict[str, Any]:
    return {
        "id": name,
        "kind": "base",
        "when": when,
        "tiers": {
            "mode": "graduated",
            "measure": "sales",
            "window": "calendar_month",
            "scope": ["publisher"],
            "boundary": "split",
            "levels": [{"from": start, "percent": percent} for start, percent in levels],
        },
    }


def _percent(name: str, percent: str, **when: list[str]) -> dict[str, Any]:
    return {"id": name, "kind": "base", "when": when, "pay": {"percent": percent}}


PROGRAMS = (
    DemoProgram(
        advertiser="Hearth & Gather Ltd",
        login="hearth",
        code="hearth-uk",
        name="Hearth & Gather",
        currency="GBP",
        timezone="Europe/London",
        domain="hearth.example",
        countries=(("GB", 80), ("IE", 8), ("DE", 6), ("FR", 6)),
        basket_minor=(1_200, 14_000),
        goods=(("goods", "Enamel jug"), ("goods", "Wool throw"), ("goods", "Beeswax candles")),
        rules=(
            {
                # Ireland is in both regions: the priority says which of the two pays.
                **_graduated(
                    "uki-monthly", {"region": ["UKI"]}, (0, "5"), (200_000, "6"), (1_000_000, "7.5")
                ),
                "priority": 5,
            },
            _percent("eu", "6", region=["EU"]),
            _percent("apac", "8", region=["APAC"]),
            {
                "id": "latam-fixed",
                "kind": "base",
                "when": {"region": ["LATAM"]},
                "pay": {"fixed_minor": 350, "per": "order"},
            },
            _percent("elsewhere", "4"),
            {**_percent("postage", "0", category=["postage"]), "priority": 10},
        ),
        # Midnight in London on the first of July 2011: the second half of the replayed orders.
        raised=("2011-06-30T23:00:00+00:00", ((0, "5"), (200_000, "6.5"), (1_000_000, "8"))),
    ),
    DemoProgram(
        advertiser="Nordlicht Elektronik GmbH",
        login="nordlicht",
        code="nordlicht-eu",
        name="Nordlicht",
        currency="EUR",
        timezone="Europe/Berlin",
        domain="nordlicht.example",
        countries=(("DE", 60), ("AT", 14), ("CH", 8), ("NL", 10), ("BR", 8)),
        basket_minor=(3_900, 49_900),
        goods=(("audio", "Headphones"), ("photo", "Compact camera"), ("cables", "USB-C cable")),
        rules=(
            _graduated(
                "dach-monthly", {"region": ["DACH"]}, (0, "3"), (500_000, "3.5"), (2_000_000, "4")
            ),
            _percent("eu", "2.5", region=["EU"], category=["audio", "photo", "cables"]),
            {**_percent("cables", "7", category=["cables"]), "priority": 5},
            {
                "id": "latam-fixed",
                "kind": "base",
                "when": {"region": ["LATAM"]},
                "pay": {"fixed_minor": 600, "per": "order"},
            },
            _percent("elsewhere", "2"),
        ),
    ),
    DemoProgram(
        advertiser="Summit Line Inc.",
        login="summit",
        code="summit-us",
        name="Summit Line Outdoor",
        currency="USD",
        timezone="America/New_York",
        domain="summitline.example",
        countries=(("US", 74), ("CA", 12), ("MX", 8), ("AU", 6)),
        basket_minor=(2_500, 38_000),
        goods=(("tents", "Two-person tent"), ("boots", "Trail boots"), ("packs", "Day pack")),
        rules=(
            _percent("north-america-new", "9", region=["NORTH_AMERICA"], customer=["new"]),
            _percent("north-america", "5", region=["NORTH_AMERICA"]),
            _percent("latam", "7", region=["LATAM"]),
            _percent("elsewhere", "4"),
        ),
    ),
    DemoProgram(
        advertiser="Kiyomi Stationery K.K.",
        login="kiyomi",
        code="kiyomi-jp",
        name="Kiyomi 文具",
        currency="JPY",
        timezone="Asia/Tokyo",
        domain="kiyomi.example",
        countries=(("JP", 70), ("TW", 12), ("SG", 10), ("US", 8)),
        basket_minor=(900, 24_000),
        goods=(("pens", "万年筆"), ("paper", "和紙ノート"), ("ink", "Bottled ink")),
        rules=(
            _graduated(
                "apac-monthly", {"region": ["APAC"]}, (0, "6"), (150_000, "7"), (500_000, "8")
            ),
            _percent("elsewhere", "5"),
        ),
    ),
)

PUBLISHERS = (
    DemoPublisher("teatime-blog", "Teatime Reviews", 16),
    DemoPublisher("slow-home", "The Slow Home", 12),
    DemoPublisher("gadget-grid", "Gadget Grid", 18),
    DemoPublisher("coupon-cove", "Coupon Cove", 22),
    DemoPublisher("cashback-club", "Cashback Club", 20),
    DemoPublisher("trail-notes", "Trail Notes", 9),
    DemoPublisher("kantan-press", "かんたんプレス", 8),
    DemoPublisher("weekly-finds", "Weekly Finds Newsletter", 6),
)

# Who is not (yet) an approved member of what: pages should have something to decide.
NOT_APPROVED = {
    ("kiyomi-jp", "trail-notes"): "pending",
    ("summit-us", "kantan-press"): "pending",
    ("nordlicht-eu", "weekly-finds"): "suspended",
}


def plans_of(program: DemoProgram, *, first_from: str) -> list[tuple[str, dict[str, Any]]]:
    """(effective from, plan document) of every version of the program's terms, oldest first."""
    first = plan_document(program)
    if program.raised is None:
        return [(first_from, first)]
    since, levels = program.raised
    second = plan_document(program)
    for rule in second["rules"]:
        if "tiers" in rule:
            rule["tiers"] = {
                **rule["tiers"],
                "levels": [{"from": start, "percent": percent} for start, percent in levels],
            }
    return [(first_from, first), (since, second)]


def plan_document(program: DemoProgram) -> dict[str, Any]:
    """The program's first commission plan, in the plan language."""
    used = {region for rule in program.rules for region in rule.get("when", {}).get("region", ())}
    return {
        "currency": program.currency,
        "timezone": program.timezone,
        "rounding": "half_up",
        "round_at": "line",
        "country_basis": ["country"],
        "regions": {name: REGIONS[name] for name in sorted(used)},
        "rules": [dict(rule) for rule in program.rules],
    }
