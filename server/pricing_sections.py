"""The sections of documents of vectors beside commissions: schedules, payouts, fx, ledger, tlog.

Each function takes one entry and returns what it computes; ValueError names what cannot be read.
The rules are those of `commissions` and `kernel`; here is only how a document says its questions.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from fractions import Fraction
from typing import Any, cast
from zoneinfo import ZoneInfo

from commissions import payout_rules, schedules
from commissions.countries import COUNTRIES
from commissions.exchange import Rates, convert
from commissions.payout_rules import PayoutTerms
from commissions.plan_document import PlanError
from commissions.plan_reading import read_rates, read_zone
from commissions.reading import Problems, Reader
from kernel import merkle, signed_notes
from kernel.money import EXPONENTS, MAX_MINOR, ROUNDING_MODES, RoundingMode

Computed = dict[str, Any]
_DESCRIBING = ("id", "title", "provenance", "note", "covers")
_UTC = ZoneInfo("UTC")
_RAIL_DECIMALS_MAX = 4
_LEAVES_MAX = 100_000
_DEFAULT_WITHHOLDING = {"1042-S": "30", "backup": "24"}


def _reader(entry: Mapping[str, Any], problems: Problems) -> Reader:
    """The entry's own fields: not those that describe it, and not what it expects."""
    skipped = {name for name in entry if name.startswith("expect")} | set(_DESCRIBING)
    return Reader({name: entry[name] for name in entry if name not in skipped}, "", problems)


def _finish(reader: Reader, problems: Problems) -> None:
    reader.finish()
    if problems:
        raise PlanError(problems)


def schedule(entry: Mapping[str, Any]) -> Computed:
    """Days by name: what is approved, locked, invoiced, paid or frozen when."""
    problems: Problems = []
    reader = _reader(entry, problems)
    terms = schedules.read_terms(reader.given("rule"))
    given = reader.given("input")
    zone = read_zone(reader, "timezone", _UTC)
    _finish(reader, problems)
    if terms.window:
        return {**_freeze(terms, given, zone), **schedules.carried(terms)}
    start = schedules.read_start(given)
    found = {name: day.isoformat() for name, day in terms.dates(start).items()}
    return {**found, **schedules.carried(terms)}


def _freeze(terms: schedules.Terms, given: object, zone: ZoneInfo) -> Computed:
    problems: Problems = []
    reader = Reader(given, "input", problems)
    local = schedules.read_window(reader.text("window"))
    if local is None and not problems:
        reader.problem("window", "must be a year, quarter, month, week or day")
    _finish(reader, problems)
    at = cast("Any", local).replace(tzinfo=zone)
    frozen = schedules.frozen_from(terms.window, at, zone, terms.freeze_days)
    local_end = None if frozen is None else frozen.astimezone(zone).replace(tzinfo=None)
    return {"frozen_from": local_end and local_end.isoformat()}


def payout(entry: Mapping[str, Any]) -> Computed:
    """What is paid of a balance, and what becomes of the rest."""
    problems: Problems = []
    reader = _reader(entry, problems)
    terms = _payout_terms(reader)
    names = ("payable_minor", "balance_before_minor", "earned_minor", "reserve_released_minor")
    if not any(reader.has(name) for name in names):
        reader.problem("payable_minor", "missing")
    balance = sum(_signed(reader, name) for name in names)
    _finish(reader, problems)
    found = payout_rules.decide(balance, terms)
    return {
        "balance_minor": balance,
        "paid_minor": found.paid_minor,
        "carried_minor": found.carried_minor,
        "reserved_minor": found.reserved_minor,
        "withheld_minor": found.withheld_minor,
        "treatment": found.treatment,
        "vat_minor": found.vat_minor,
        "invoice_minor": found.invoice_minor,
        "payout_minor": found.payout_minor,
        "payout_currency": (terms.conversion.currency if terms.conversion else terms.currency)
        or None,
        "reason": found.reason,
    }


def _payout_terms(reader: Reader) -> PayoutTerms:
    currency = _currency(reader, "currency", optional=True)
    target = _currency(reader, "payout_currency", optional=True) or currency
    terms = PayoutTerms(
        currency=currency,
        min_minor=reader.integer("min_minor", default=0),
        reserve=reader.decimal("reserve_percent", limit=100) / 100,
        withholding=_withholding(reader),
        vat=_vat(reader),
        rail_decimals=reader.optional_integer("rail_decimals", limit=_RAIL_DECIMALS_MAX),
        rounding=_rounding(reader),
    )
    if terms.rail_decimals is not None and not currency:
        reader.problem("currency", "missing")
    rate = reader.decimal("rate")
    if target == currency:
        return terms
    if not currency:
        reader.problem("currency", "missing")
    if not rate and not reader.has("rate"):
        reader.problem("rate", "missing")
    elif not rate:
        reader.problem("rate", "a rate is above zero")
    return replace(terms, conversion=payout_rules.Conversion(target, rate))


def _withholding(reader: Reader) -> payout_rules.Withholding | None:
    tax = reader.nested("tax")
    if tax is None:
        return None
    regime = tax.text("regime")
    source = tax.decimal("us_source_percent", limit=100) if tax.has("us_source_percent") else 100
    names = [name for name in ("treaty_rate_percent", "rate_percent") if tax.has(name)]
    rates = [tax.decimal(name, limit=100) for name in names]
    has_number = tax.flag("tin")
    if not rates:
        # Without a rate of the operator's own only the two that the law itself names are known.
        rates = [Fraction(_DEFAULT_WITHHOLDING.get(regime, 0))]
    if regime == "1099-NEC" and has_number:
        rates = [Fraction(0)]
    tax.finish()
    return payout_rules.Withholding(regime, rates[0] / 100, Fraction(source) / 100)


def _vat(reader: Reader) -> payout_rules.Vat | None:
    vat = reader.nested("vat")
    if vat is None:
        return None
    found = payout_rules.Vat(
        payer=vat.text("payer"),
        payee=vat.text("payee"),
        payee_has_id=vat.flag("payee_vat_id"),
        rate=vat.decimal("rate_percent", limit=100) / 100 if vat.has("rate_percent") else None,
        small_business=vat.flag("small_business"),
    )
    for name, country in (("payer", found.payer), ("payee", found.payee)):
        if country and country not in COUNTRIES:
            vat.problem(name, f"unknown country: {country}")
    vat.finish()
    return found


def exchange(entry: Mapping[str, Any]) -> Computed:
    """The amount in another currency, exact until it is rounded once."""
    problems: Problems = []
    reader = _reader(entry, problems)
    source, target = _currency(reader, "from"), _currency(reader, "to")
    amount = _signed(reader, "amount_minor")
    if not reader.has("amount_minor"):
        reader.problem("amount_minor", "missing")
    rounding = _rounding(reader)
    given = [name for name in ("rate", "per_eur", "rates", "fx") if reader.has(name)]
    if len(given) != 1:
        reader.problem("rate", "names one of rate, per_eur, rates or fx")
        raise PlanError(problems)
    rates = _rates(reader, given[0], source, target)
    day = reader.text("date") if reader.has("date") else date.max.isoformat()
    _finish(reader, problems)
    if isinstance(rates, Rates):
        quote = rates.quote(source, target, day)
        found: Computed = {"published": quote.published} if quote.published else {}
        rate = quote.rate
    else:
        found, rate = {}, rates
    minor = convert(amount, source, target, rate, rounding=rounding)
    return {"minor": minor, "rate": str(rate), **found}


def _rates(reader: Reader, name: str, source: str, target: str) -> Fraction | Rates:
    if name == "rate":
        rate = reader.decimal("rate")
        if not rate:
            reader.problem("rate", "a rate is above zero")
        return rate
    if name == "per_eur" and not isinstance(reader.given("per_eur"), Mapping):
        other = source if target == "EUR" else target
        if "EUR" not in {source, target}:
            reader.problem("per_eur", "a single rate converts from or to EUR")
        return _undated("EUR", {other: reader.decimal("per_eur")}, reader)
    if name == "per_eur":
        nested = cast("Reader", reader.nested("per_eur"))
        return _undated("EUR", {one: nested.decimal(one) for one in nested.names()}, reader)
    if name == "fx":
        return read_rates(reader, "") or Rates("EUR", {})
    whole = {"fx": {"pivot": reader.optional_text("pivot") or "EUR", "rates": reader.given(name)}}
    problems: Problems = []
    found = read_rates(Reader(whole, "", problems), "")
    for path, reason in problems:
        reader.problem(path.removeprefix("fx."), reason)
    return found or Rates("EUR", {})


def _undated(pivot: str, row: Mapping[str, Fraction], reader: Reader) -> Rates:
    for currency, rate in row.items():
        if not rate:
            reader.problem(f"per_eur.{currency}", "a rate is above zero")
    # Before every date, and not shown.
    return Rates(pivot, {"": row})


def balances(entry: Mapping[str, Any]) -> Computed:
    """The balances of postings by account and currency, without those that are zero.

    A transaction that comes again with the same key and content changes nothing; one with other
    content is refused, as the ledger does.
    """
    problems: Problems = []
    reader = _reader(entry, problems)
    sign = -1 if (reader.optional_text("sign") or "").startswith("positive = credit") else 1
    found: dict[str, int] = {}
    seen: dict[str, object] = {}
    for one in reader.objects("transactions"):
        key = one.text("key")
        one.optional_text("event")
        postings = one.given("postings")
        if key in seen and seen[key] != postings:
            one.problem("key", f"another transaction was booked as {key}")
        is_new = key not in seen
        seen[key] = postings
        _book(one, found, is_new=is_new)
        one.finish()
    _finish(reader, problems)
    shown = {name: sign * minor for name, minor in sorted(found.items()) if minor}
    return {"balances": shown}


def _book(transaction: Reader, found: dict[str, int], *, is_new: bool) -> None:
    postings = transaction.objects("postings")
    if not postings:
        transaction.problem("postings", "names at least one posting")
    for posting in postings:
        debit, credit = posting.text("debit"), posting.text("credit")
        currency = _currency(posting, "currency")
        amount = posting.integer("amount_minor")
        if debit and debit == credit:
            posting.problem("credit", "must be another account than the debit")
        if amount == 0:
            posting.problem("amount_minor", "must be above zero")
        posting.finish()
        if is_new:
            found[f"{debit}|{currency}"] = found.get(f"{debit}|{currency}", 0) + amount
            found[f"{credit}|{currency}"] = found.get(f"{credit}|{currency}", 0) - amount


def transparency_log(entry: Mapping[str, Any]) -> Computed:
    """Roots by size, proofs, a signed note and tiles, for whatever of them the entry asks."""
    tree = merkle.Tree()
    roots = []
    for leaf in _listed(entry, "leaves_hex"):
        tree.append(bytes.fromhex(leaf))
        roots.append(tree.root().hex())
    computed: Computed = {"empty_root": merkle.EMPTY_ROOT.hex(), "roots_by_size": roots}
    computed["inclusion"] = [
        {
            "index": one["index"],
            "size": one["size"],
            "path": [step.hex() for step in tree.inclusion(one["index"], one["size"])],
        }
        for one in _listed(entry, "inclusion")
    ]
    computed["consistency"] = [
        {
            "from": one["from"],
            "to": one["to"],
            "path": [step.hex() for step in tree.consistency(one["from"], one["to"])],
        }
        for one in _listed(entry, "consistency")
    ]
    if "signed_note" in entry:
        computed["signed_note"] = _note(entry["signed_note"])
    if "tiles" in entry:
        computed["tiles"] = {name: _tiles(name) for name in entry["tiles"]}
    return computed


def _listed(entry: Mapping[str, Any], name: str) -> list[Any]:
    value = entry.get(name, [])
    if not isinstance(value, list) or len(value) > _LEAVES_MAX:
        raise ValueError(f"{name}: must be a list of at most {_LEAVES_MAX}")
    return value


def _note(given: Mapping[str, Any]) -> Computed:
    try:
        valid = signed_notes.is_signed(given["note"], signed_notes.read_key(given["vkey"]))
    except signed_notes.NoteError as error:
        return {**given, "valid": False, "why": str(error)}
    return {**given, "valid": valid}


def _tiles(name: str) -> str | dict[str, int]:
    """A tile's path, or the full tiles and the width of the partial one, level by level."""
    path_of, size_of = "path_of_index_", "tree_size_"
    if name.startswith(path_of):
        return merkle.tile_path(int(name.removeprefix(path_of)))
    if not name.startswith(size_of):
        raise ValueError(f"tiles.{name}: is not known")
    found: dict[str, int] = {}
    for level, (full, partial) in enumerate(merkle.tiles(int(name.removeprefix(size_of)))):
        found |= {f"level{level}_full": full} if full else {}
        found |= {f"level{level}_partial": partial} if partial else {}
    return found


def _currency(reader: Reader, name: str, *, optional: bool = False) -> str:
    currency = (reader.optional_text(name) or "") if optional else reader.text(name)
    if currency and currency not in EXPONENTS:
        reader.problem(name, "unknown currency code")
    return currency


def _rounding(reader: Reader) -> RoundingMode:
    return cast("RoundingMode", reader.choice("rounding", ROUNDING_MODES, ROUNDING_MODES[0]))


def _signed(reader: Reader, name: str) -> int:
    return reader.signed(name, limit=MAX_MINOR)


EVALUATE: Mapping[str, Callable[[Mapping[str, Any]], Computed]] = {
    "schedules": schedule,
    "payouts": payout,
    "fx": exchange,
    "ledger": balances,
    "tlog": transparency_log,
}
