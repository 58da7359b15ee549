"""The rules by which a program attributes its orders: a document, read with every problem named.

Pure. A program without a document has the terms of an empty one: the last click within the
program's own window, then the owner of the coupon, the order referred to, the customer.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final, NamedTuple, TypeVar

from tracker.credit import Conditions, MissingContributor, Model, Params
from tracker.fields import CUSTOMERS, Fields, parse_time

WINDOW_HOURS_MAX: Final = 8_760
IN_CART_SECONDS_MAX: Final = 3_540
STAND_DOWN_SECONDS_MAX: Final = 3_600
CUSTOMER_DAYS_DEFAULT: Final = 30
CUSTOMER_DAYS_MAX: Final = 3_650
RULES_MAX: Final = 100
NAMES_MAX: Final = 1_000
_WORD_CHARS_MAX: Final = 128
_PERCENT: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,4})?", re.ASCII)
_DAYS: Final = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,6})?", re.ASCII)
_HUNDRED: Final = 100
_SECONDS_OF_DAY: Final = 86_400


class Source(StrEnum):
    """What decides who brought an order."""

    CLICK = "click"
    COUPON = "coupon"
    ORDER = "order"
    CUSTOMER = "customer"
    PUBLISHER = "publisher"


class CustomerChoice(StrEnum):
    """Which earlier order of the customer decides."""

    LATEST = "latest"
    FIRST = "first"


SOURCES_DEFAULT: Final = (Source.CLICK, Source.COUPON, Source.ORDER, Source.CUSTOMER)
# What a shop calls the channel of its affiliates; another name on an order is another channel.
CHANNELS_DEFAULT: Final = ("affiliate", "aw")
PARAMS: Final[Mapping[Model, tuple[str, ...]]] = {
    Model.LAST_CLICK: (),
    Model.FIRST_CLICK: (),
    Model.LINEAR: (),
    Model.POSITION: ("first_percent", "last_percent"),
    Model.TIME_DECAY: ("half_life_days",),
    Model.SPLIT: (
        "initiator_percent",
        "contributor_percent",
        "converter_percent",
        "missing_contributor",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferred:
    """A publisher that wins while it is preferred, with a touch that counts or without any."""

    publisher: str
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    clickless: bool = False

    def holds(self, at: datetime) -> bool:
        """Whether it is preferred then; the end is exclusive."""
        return (self.starts_at is None or self.starts_at <= at) and (
            self.ends_at is None or at < self.ends_at
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a rule may set; None is not set."""

    model: Model | None = None
    params: Params | None = None
    window_hours: int | None = None
    stand_down_seconds: int | None = None
    in_cart_seconds: int | None = None
    in_cart_rejects_solo: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Settings for some orders, or a window for the clicks of some publishers."""

    id: str
    when: Mapping[str, frozenset[str]]
    settings: Settings

    def matches(self, facts: Mapping[str, str | None]) -> bool:
        """Whether every dimension but the publisher holds one of the order's values."""
        return all(
            facts.get(name) in wanted for name, wanted in self.when.items() if name != "publisher"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """A document, read. `settings` hold for orders that no rule says otherwise of."""

    settings: Settings = field(default_factory=Settings)
    sources: tuple[Source, ...] = SOURCES_DEFAULT
    customer_days: int = CUSTOMER_DAYS_DEFAULT
    customer_choice: CustomerChoice = CustomerChoice.LATEST
    channels: frozenset[str] = frozenset(CHANNELS_DEFAULT)
    preferred: tuple[Preferred, ...] = ()
    excluded: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()
    # By the program's window: without rules and baskets all orders of a program have the same.
    common: dict[int, "Resolved"] = field(default_factory=dict, compare=False, repr=False)

    @property
    def publishers(self) -> dict[str, str]:
        """Every publisher that the document names, with the field that does."""
        named = {one.publisher: f"preferred[{at}]" for at, one in enumerate(self.preferred)}
        named |= dict.fromkeys(self.excluded, "excluded")
        for at, rule in enumerate(self.rules):
            named |= dict.fromkeys(rule.when.get("publisher", ()), f"rules[{at}].when")
        return named


class Resolved(NamedTuple):
    """The terms for one order; `rules` are the ids of those that say something about it."""

    model: Model
    params: Params
    window_hours: int
    conditions: Conditions
    rules: tuple[str, ...]


def resolve(
    terms: Terms,
    *,
    window_hours: int,
    cart_at: datetime | None = None,
    event: str = "",
    customer: str | None = None,
    coupon: str | None = None,
) -> Resolved:
    """What holds for an order. Of each setting, the first matching rule that has it decides.

    `window_hours` is the program's own, for a document that says none.
    """
    if terms.rules or cart_at is not None:
        facts = {"event": event, "customer": customer, "coupon": coupon and coupon.casefold()}
        return _resolve(terms, window_hours, cart_at, facts)
    found = terms.common.get(window_hours)
    if found is None:
        found = terms.common[window_hours] = _resolve(terms, window_hours, None, {})
    return found


def _resolve(
    terms: Terms, window_hours: int, cart_at: datetime | None, facts: Mapping[str, str | None]
) -> Resolved:
    matching = [rule for rule in terms.rules if rule.matches(facts)]
    whole = [rule.settings for rule in matching if "publisher" not in rule.when]
    chain = [*whole, terms.settings]
    windows: dict[str, timedelta] = {}
    for rule in matching:
        hours = rule.settings.window_hours
        for publisher in rule.when.get("publisher", ()):
            windows.setdefault(publisher, timedelta(hours=hours or window_hours))
    model_of = next((one for one in chain if one.model), Settings(model=Model.LAST_CLICK))
    hours = _first(chain, "window_hours", window_hours)
    in_cart = _first(chain, "in_cart_seconds", 0)
    return Resolved(
        model=model_of.model or Model.LAST_CLICK,
        params=model_of.params or Params(),
        window_hours=hours,
        conditions=Conditions(
            window=timedelta(hours=hours),
            windows=windows,
            excluded=terms.excluded,
            cart_at=cart_at if in_cart else None,
            in_cart_seconds=in_cart,
            in_cart_rejects_solo=_first(chain, "in_cart_rejects_solo", False),  # noqa: FBT003 - a default
            stand_down_seconds=_first(chain, "stand_down_seconds", 0),
        ),
        rules=tuple(rule.id for rule in matching),
    )


_T = TypeVar("_T")


def _first(chain: Iterable[Settings], name: str, default: _T) -> _T:
    found = (getattr(one, name) for one in chain)
    return next((value for value in found if value is not None), default)


def parse(document: Mapping[str, Any]) -> Terms:
    """The terms in a document; InvalidInput names the field and rule of everything wrong in it."""
    fields = Fields(document)
    fields.only(
        *_SETTINGS, "sources", "customer_days", "customer_choice", "channels", "groups",
        "preferred", "excluded", "rules",
    )  # fmt: skip
    groups = _groups(fields)
    channels = _words(fields, "channels")
    sources = _choices(fields, "sources", Source)
    terms = Terms(
        settings=_settings(fields),
        sources=SOURCES_DEFAULT if sources is None else tuple(sources),
        customer_days=_whole(fields, "customer_days", 0, CUSTOMER_DAYS_MAX, CUSTOMER_DAYS_DEFAULT),
        customer_choice=CustomerChoice(
            fields.choice("customer_choice", tuple(CustomerChoice)) or CustomerChoice.LATEST
        ),
        channels=frozenset(
            word.casefold() for word in (CHANNELS_DEFAULT if channels is None else channels)
        ),
        preferred=tuple(_preferred(fields)),
        excluded=_expanded(fields, "excluded", _words(fields, "excluded") or (), groups),
        rules=tuple(_rules(fields, groups)),
    )
    fields.finish()
    return terms


_SETTINGS: Final = (
    "model",
    "params",
    "window_hours",
    "stand_down_seconds",
    "in_cart_seconds",
    "in_cart_rejects_solo",
)
_WHEN: Final = ("event", "customer", "coupon", "publisher", "publisher_group")


def _settings(fields: Fields) -> Settings:
    word = fields.choice("model", tuple(Model))
    model = Model(word) if word else None
    if model is None and fields.value("params") is not None:
        fields.problem("params", "model", "belong to a model, which is not named beside them")
    return Settings(
        model=model,
        params=_params(fields, model) if model else None,
        window_hours=_whole(fields, "window_hours", 1, WINDOW_HOURS_MAX, None),
        stand_down_seconds=_whole(fields, "stand_down_seconds", 0, STAND_DOWN_SECONDS_MAX, None),
        in_cart_seconds=_whole(fields, "in_cart_seconds", 0, IN_CART_SECONDS_MAX, None),
        in_cart_rejects_solo=_flag(fields, "in_cart_rejects_solo"),
    )


def _params(fields: Fields, model: Model) -> Params:
    found = fields.value("params")
    if found is not None and not isinstance(found, Mapping):
        fields.problem("params", "type", "must be an object")
        return Params()
    inner = Fields(found or {}, path="params.")
    inner.only(*PARAMS[model])
    params = read_params(inner)
    _nest(fields, inner)
    return params


def read_params(fields: Fields) -> Params:
    """The figures of a model; what is wrong is remembered by `fields`."""
    default = Params()
    percents = {
        name: _percent(fields, name, getattr(default, name))
        for name in (
            "first_percent", "last_percent", "initiator_percent", "contributor_percent",
            "converter_percent",
        )
    }  # fmt: skip
    if percents["first_percent"] + percents["last_percent"] > _HUNDRED:
        fields.problem("last_percent", "sum", "and first_percent must not be over 100 together")
    split = ("initiator_percent", "contributor_percent", "converter_percent")
    if sum(percents[name] for name in split) != _HUNDRED:
        fields.problem("converter_percent", "sum", "and the other two must be 100 together")
    missing = fields.choice("missing_contributor", tuple(MissingContributor))
    return Params(
        half_life_seconds=_half_life(fields, default.half_life_seconds),
        missing_contributor=MissingContributor(missing or default.missing_contributor),
        **percents,
    )


def _half_life(fields: Fields, default: int) -> int:
    found = fields.value("half_life_days")
    if found is None:
        return default
    seconds = Fraction()
    if _is_number(found) and _DAYS.fullmatch(str(found)):
        seconds = Fraction(str(found)) * _SECONDS_OF_DAY
    if seconds.denominator != 1 or not 0 < seconds <= WINDOW_HOURS_MAX * 3_600:
        fields.problem("half_life_days", "range", "must be up to 365 days and whole seconds")
        return default
    return int(seconds)


def _percent(fields: Fields, name: str, default: Fraction) -> Fraction:
    found = fields.value(name)
    if found is None:
        return default
    if not _is_number(found) or not _PERCENT.fullmatch(str(found)):
        fields.problem(name, "percent", 'must be a percentage such as "12.5"')
        return default
    if Fraction(str(found)) > _HUNDRED:
        fields.problem(name, "percent", "must not be over 100")
        return default
    return Fraction(str(found))


def _is_number(found: object) -> bool:
    # A float's text is the shortest decimal that reads back as it, so nothing is guessed here.
    return isinstance(found, str | int | float | Decimal) and not isinstance(found, bool)


def _whole(fields: Fields, name: str, low: int, high: int, default: _T) -> _T | int:
    found = fields.value(name)
    if found is None:
        return default
    if type(found) is not int or not low <= found <= high:
        fields.problem(name, "range", f"must be a whole number from {low} to {high}")
        return default
    return found


def _flag(fields: Fields, name: str) -> bool | None:
    found = fields.value(name)
    if found is not None and not isinstance(found, bool):
        fields.problem(name, "type", "must be true or false")
        return None
    return found


def _words(fields: Fields, name: str) -> list[str] | None:
    found = fields.value(name)
    if found is None:
        return None
    if not isinstance(found, list) or len(found) > NAMES_MAX:
        fields.problem(name, "type", f"must be a list of at most {NAMES_MAX} texts")
        return []
    good = [one for one in found if isinstance(one, str) and 0 < len(one) <= _WORD_CHARS_MAX]
    if len(good) != len(found):
        fields.problem(name, "length", f"must hold texts of 1 to {_WORD_CHARS_MAX} characters")
    return good


def _choices(fields: Fields, name: str, kind: type[Source]) -> list[Source] | None:
    words = _words(fields, name)
    if words is None:
        return None
    unknown = [word for word in words if word not in tuple(kind)]
    if unknown or len(set(words)) != len(words):
        fields.problem(name, "choice", "must hold, each once, of " + ", ".join(kind))
        return None
    return [kind(word) for word in words]


def _nest(fields: Fields, inner: Fields) -> None:
    """The problems of an object inside; the outer fields put their own path before them."""
    for one in inner.problems:
        fields.problem(one.field, one.rule, one.message)


def _objects(fields: Fields, name: str, rows_max: int) -> list[tuple[str, Mapping[str, Any]]]:
    found = fields.value(name)
    if found is None:
        return []
    if not isinstance(found, list) or len(found) > rows_max:
        fields.problem(name, "type", f"must be a list of at most {rows_max} objects")
        return []
    rows = []
    for at, value in enumerate(found):
        if isinstance(value, Mapping):
            rows.append((f"{name}[{at}]", value))
        else:
            fields.problem(f"{name}[{at}]", "type", "must be an object")
    return rows


def _groups(fields: Fields) -> Mapping[str, Sequence[str]]:
    found = fields.value("groups")
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        fields.problem("groups", "type", "must be an object of lists of publishers")
        return {}
    inner = Fields(found, path="groups.")
    groups = {name: _words(inner, name) or [] for name in found}
    _nest(fields, inner)
    return groups


def _expanded(
    fields: Fields, name: str, words: Iterable[str], groups: Mapping[str, Sequence[str]]
) -> frozenset[str]:
    """Publishers, those of `group:name` among them."""
    found: set[str] = set()
    for word in words:
        kind, _, group = word.partition(":")
        if kind != "group":
            found.add(word)
        elif group in groups:
            found.update(groups[group])
        else:
            fields.problem(name, "group", f"{group!r} is none of the groups of this document")
    return frozenset(found)


def _preferred(fields: Fields) -> Iterable[Preferred]:
    for path, row in _objects(fields, "preferred", RULES_MAX):
        inner = Fields(row, path=f"{path}.")
        inner.only("publisher", "from", "to", "clickless")
        starts_at, ends_at = _instant(inner, "from"), _instant(inner, "to")
        if starts_at and ends_at and starts_at >= ends_at:
            inner.problem("to", "order", "must come after from")
        one = Preferred(
            publisher=inner.required_text("publisher", chars_max=_WORD_CHARS_MAX),
            starts_at=starts_at,
            ends_at=ends_at,
            clickless=_flag(inner, "clickless") or False,
        )
        _nest(fields, inner)
        yield one


def _instant(fields: Fields, name: str) -> datetime | None:
    found = fields.value(name)
    instant = parse_time(found)
    if found is not None and instant is None:
        fields.problem(name, "rfc_3339", "must be an RFC 3339 time such as 2026-03-01T12:00:00Z")
    return instant


def _rules(fields: Fields, groups: Mapping[str, Sequence[str]]) -> Iterable[Rule]:
    seen: set[str] = set()
    for path, row in _objects(fields, "rules", RULES_MAX):
        inner = Fields(row, path=f"{path}.")
        inner.only("id", "when", *_SETTINGS)
        name = inner.required_text("id", chars_max=64)
        if name in seen:
            inner.problem("id", "repeated", "is the id of an earlier rule")
        seen.add(name)
        when = _when(inner, row.get("when"), groups)
        settings = _settings(inner)
        said = [one for one in _SETTINGS if inner.value(one) is not None]
        if not said:
            inner.problem("window_hours", "missing", "or another setting is required")
        if "publisher" in when and set(said) - {"window_hours"}:
            inner.problem("when", "publisher", "a rule for publishers sets window_hours only")
        _nest(fields, inner)
        yield Rule(id=name, when=when, settings=settings)


def _when(
    fields: Fields, found: object, groups: Mapping[str, Sequence[str]]
) -> Mapping[str, frozenset[str]]:
    if not isinstance(found, Mapping) or not found:
        fields.problem("when", "missing", "is required, with a condition or more")
        return {}
    inner = Fields(found, path="when.")
    inner.only(*_WHEN)
    when = {name: frozenset(_words(inner, name) or ()) for name in _WHEN if name in found}
    named = when.pop("publisher_group", frozenset())
    publishers = when.pop("publisher", frozenset()) | _expanded(
        inner, "publisher_group", (f"group:{name}" for name in sorted(named)), groups
    )
    if "publisher" in found or "publisher_group" in found:
        when["publisher"] = publishers
    if "coupon" in when:
        when["coupon"] = frozenset(code.casefold() for code in when["coupon"])
    if unknown := when.get("customer", frozenset()) - frozenset(CUSTOMERS):
        listed = ", ".join(CUSTOMERS)
        inner.problem("customer", "choice", f"must be one of {listed}, not {min(unknown)}")
    for name, values in when.items():
        if not values:
            inner.problem(name, "empty", "must name one or more")
    _nest(fields, inner)
    return when
