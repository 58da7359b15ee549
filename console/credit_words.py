"""Rules of attribution in words: who earns, within which time, and the exceptions. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any

from commissions.plan_words import decimal_text
from console.words import N_
from tracker.credit import MissingContributor, Model, Params
from tracker.credit_terms import CustomerChoice, Preferred, Rule, Settings, Source, Terms, parse

Gettext = Callable[[str], str]
_NAMES_SHOWN = 10
_HOURS_A_DAY = 24

MODELS = {
    Model.LAST_CLICK: N_("Last click"),
    Model.FIRST_CLICK: N_("First click"),
    Model.LINEAR: N_("Linear: equal parts"),
    Model.POSITION: N_("Position: first and last click"),
    Model.TIME_DECAY: N_("Time decay"),
    Model.SPLIT: N_("Split by role"),
}
_FIGURES = {
    Model.POSITION: N_(
        "{first} % to the first click, {last} % to the last, the rest in equal parts to the others"
    ),
    Model.TIME_DECAY: N_("half as much for each {days} days that a click is older"),
    Model.SPLIT: N_(
        "{initiator} % to who began it, {contributor} % to who helped, {converter} % to who "
        "completed it"
    ),
}
MISSING = {
    MissingContributor.CONVERTER: N_("where nobody helped, that part goes to who completed it"),
    MissingContributor.INITIATOR: N_("where nobody helped, that part goes to who began it"),
    MissingContributor.SPLIT: N_("where nobody helped, the two others share that part"),
}
SOURCES = {
    Source.CLICK: N_("Clicks, by the model"),
    Source.COUPON: N_("The owner of the coupon"),
    Source.ORDER: N_("The order that it refers to"),
    Source.CUSTOMER: N_("An earlier order of the customer"),
    Source.PUBLISHER: N_("The publisher that the report names"),
}
_CONDITIONS = {
    "event": N_("event {values}"),
    "customer": N_("customer {values}"),
    "coupon": N_("coupon {values}"),
    "publisher": N_("clicks of {values}"),
}


@dataclass(frozen=True, slots=True)
class RuleText:
    """A rule for some orders: which, and what holds for them."""

    id: str
    conditions: tuple[str, ...]
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreferredText:
    """A publisher that wins while it is preferred."""

    name: str
    starts_at: datetime | None
    ends_at: datetime | None
    clickless: bool


@dataclass(frozen=True, slots=True)
class CreditText:
    """A version of the rules, ready to be read."""

    facts: tuple[tuple[str, str], ...]
    preferred: tuple[PreferredText, ...]
    rules: tuple[RuleText, ...]


def read(
    document: Mapping[str, Any], *, window_hours: int, names: Mapping[str, str], gettext: Gettext
) -> CreditText:
    """A document in words. `window_hours` is the program's own, `names` are of publishers."""
    terms = parse(document)
    return CreditText(
        facts=tuple(_facts(terms, window_hours, names, gettext)),
        preferred=tuple(_preferred(one, names) for one in terms.preferred),
        rules=tuple(_rule(rule, names, gettext) for rule in terms.rules),
    )


def _facts(
    terms: Terms, window_hours: int, names: Mapping[str, str], gettext: Gettext
) -> Iterator[tuple[str, str]]:
    settings = terms.settings
    yield gettext("Who earns"), _model(settings.model or Model.LAST_CLICK, settings.params, gettext)
    yield gettext("Window"), _window(settings.window_hours or window_hours, gettext)
    yield gettext("Stand-down"), _stand_down(settings.stand_down_seconds or 0, gettext)
    yield gettext("Filled basket"), _basket(settings, gettext)
    yield gettext("What decides"), _sources(terms, gettext)
    if Source.CUSTOMER in terms.sources:
        yield gettext("Earlier orders"), _customer(terms, gettext)
    yield gettext("Channels"), _channels(terms, gettext)
    if terms.excluded:
        yield gettext("Without a part"), _listed([names.get(one, one) for one in terms.excluded])


def _model(model: Model, params: Params | None, gettext: Gettext) -> str:
    name, figures = gettext(MODELS[model]), params or Params()
    sentence = _FIGURES.get(model)
    if sentence is None:
        return name
    said = gettext(sentence).format(
        first=decimal_text(figures.first_percent),
        last=decimal_text(figures.last_percent),
        days=decimal_text(Fraction(figures.half_life_seconds, 86_400)),
        initiator=decimal_text(figures.initiator_percent),
        contributor=decimal_text(figures.contributor_percent),
        converter=decimal_text(figures.converter_percent),
    )
    if model is Model.SPLIT:
        said = f"{said}; {gettext(MISSING[figures.missing_contributor])}"
    return gettext("{name} ({figures})").format(name=name, figures=said)


def _window(hours: int, gettext: Gettext) -> str:
    if hours % _HOURS_A_DAY == 0 and hours > _HOURS_A_DAY:
        return gettext("{days} days after the click").format(days=hours // _HOURS_A_DAY)
    return gettext("{hours} hours after the click").format(hours=hours)


def _stand_down(seconds: int, gettext: Gettext) -> str:
    if not seconds:
        return gettext("off")
    return gettext(
        "a click in the last {seconds} seconds before the order displaces nobody's earlier one"
    ).format(seconds=seconds)


def _basket(settings: Settings, gettext: Gettext) -> str:
    if not settings.in_cart_seconds:
        return gettext("off")
    said = gettext(
        "a click after the basket was filled, in the last {seconds} seconds before the order, "
        "loses to one from before"
    ).format(seconds=settings.in_cart_seconds)
    if settings.in_cart_rejects_solo:
        said = f"{said}; " + gettext("alone it earns nothing")
    return said


def _sources(terms: Terms, gettext: Gettext) -> str:
    return " → ".join(gettext(SOURCES[one]) for one in terms.sources) or gettext("nothing")


def _customer(terms: Terms, gettext: Gettext) -> str:
    sentence = (
        gettext("the customer's first order of at most {days} days before")
        if terms.customer_choice is CustomerChoice.FIRST
        else gettext("the customer's latest order of at most {days} days before")
    )
    return sentence.format(days=terms.customer_days)


def _channels(terms: Terms, gettext: Gettext) -> str:
    if not terms.channels:
        return gettext("an order counts whatever channel it names")
    return gettext("an order that names another channel than {names} pays nobody").format(
        names=_listed(list(terms.channels))
    )


def _preferred(one: Preferred, names: Mapping[str, str]) -> PreferredText:
    return PreferredText(
        names.get(one.publisher, one.publisher), one.starts_at, one.ends_at, one.clickless
    )


def _rule(rule: Rule, names: Mapping[str, str], gettext: Gettext) -> RuleText:
    conditions = [
        gettext(_CONDITIONS[name]).format(values=_listed([names.get(one, one) for one in values]))
        for name, values in rule.when.items()
    ]
    return RuleText(rule.id, tuple(conditions), tuple(_settings(rule.settings, gettext)))


def _settings(settings: Settings, gettext: Gettext) -> Iterator[str]:
    if settings.model:
        yield _model(settings.model, settings.params, gettext)
    if settings.window_hours is not None:
        yield _window(settings.window_hours, gettext)
    if settings.stand_down_seconds is not None:
        said = _stand_down(settings.stand_down_seconds, gettext)
        yield gettext("stand-down: {said}").format(said=said)
    if settings.in_cart_seconds is not None or settings.in_cart_rejects_solo is not None:
        yield gettext("filled basket: {said}").format(said=_basket(settings, gettext))


def _listed(words: list[str]) -> str:
    shown = sorted(words)[:_NAMES_SHOWN]
    more = len(words) - len(shown)
    return ", ".join(shown) + (f" + {more}" if more else "")
