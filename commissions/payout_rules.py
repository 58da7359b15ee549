"""What of a payable balance is paid out, and what stays: reserve, tax, minimum, VAT, rail. Pure.

The balance, in which what is owed back nets by itself, less the reserve, less the tax, is paid
when it is above zero and reaches the minimum. Otherwise nothing is reserved or withheld, and all
of it is carried to the next run.
"""

from dataclasses import dataclass
from fractions import Fraction

from commissions.exchange import exact_minor
from kernel.money import RoundingMode, exponent_of, round_fraction

# Where a network and its publisher are taxed as members of one system of VAT.
_MEMBERS = "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK"
VAT_UNION = frozenset(_MEMBERS.split())
_WHOLE = Fraction(1)


@dataclass(frozen=True, slots=True)
class Withholding:
    """A tax kept back: `rate` of the part `source_part` of the amount that it applies to."""

    regime: str
    rate: Fraction
    source_part: Fraction = _WHOLE


@dataclass(frozen=True, slots=True)
class Vat:
    """Who pays whom, and what the payee is to VAT. `rate` is the payer's country's."""

    payer: str
    payee: str
    payee_has_id: bool
    rate: Fraction | None = None
    small_business: bool = False


@dataclass(frozen=True, slots=True)
class Conversion:
    """The currency paid in, and its units for one of the balance's currency."""

    currency: str
    rate: Fraction


@dataclass(frozen=True, slots=True)
class PayoutTerms:
    """What decides a payout. `rail_decimals` is how many decimals the payment's way can carry."""

    currency: str = ""
    min_minor: int = 0
    reserve: Fraction = Fraction(0)
    withholding: Withholding | None = None
    vat: Vat | None = None
    conversion: Conversion | None = None
    rail_decimals: int | None = None
    rounding: RoundingMode = "half_up"


@dataclass(frozen=True, slots=True)
class Payout:
    """What becomes of a balance.

    `paid_minor` is what leaves it for the publisher, before VAT; `payout_minor` is what the
    payment says, in its own currency and with VAT. `reason` is empty where something is paid.
    """

    paid_minor: int
    carried_minor: int
    reserved_minor: int
    withheld_minor: int
    treatment: str | None
    vat_minor: int
    invoice_minor: int
    payout_minor: int
    reason: str


def decide(balance_minor: int, terms: PayoutTerms) -> Payout:
    """What is paid of a balance, which may be negative; the parts sum to it.

    ValueError where VAT is due and its rate is not known.
    """
    treatment = None if terms.vat is None else treatment_of(terms.vat)
    reserved = round_fraction(max(balance_minor, 0) * terms.reserve, terms.rounding)
    available = balance_minor - reserved
    withheld = withheld_of(available, terms.withholding, terms.rounding)
    due = available - withheld
    kept = 0 if terms.conversion else _below(due, terms.currency, terms.rail_decimals)
    if due <= kept or due < terms.min_minor:
        reason = "not_positive" if due <= 0 else "below_minimum"
        return Payout(0, balance_minor, 0, 0, treatment, 0, 0, 0, reason)
    invoiced = available - kept
    vat = vat_of(invoiced, terms.vat, terms.rounding)
    return Payout(
        paid_minor=due - kept,
        carried_minor=kept,
        reserved_minor=reserved,
        withheld_minor=withheld,
        treatment=treatment,
        vat_minor=vat,
        invoice_minor=invoiced + vat,
        payout_minor=_in_payout_currency(due - kept + vat, terms),
        reason="",
    )


def withheld_of(
    amount_minor: int, withholding: Withholding | None, rounding: RoundingMode = "half_up"
) -> int:
    """The tax on an amount, rounded once; none on what is owed back."""
    if withholding is None or amount_minor <= 0:
        return 0
    return round_fraction(amount_minor * withholding.source_part * withholding.rate, rounding)


def treatment_of(vat: Vat) -> str:
    """The VAT category of a self-billed invoice (EN 16931): S, AE, E or O.

    S: both in one country, and the payee is registered. AE: both registered in two countries of
    the union, so the payer owes it (reverse charge). E: a small business. O: outside the scope.
    """
    if not vat.payee_has_id:
        return "E" if vat.small_business else "O"
    if vat.payer == vat.payee:
        return "E" if vat.small_business else "S"
    return "AE" if {vat.payer, vat.payee} <= VAT_UNION else "O"


def vat_of(amount_minor: int, vat: Vat | None, rounding: RoundingMode = "half_up") -> int:
    """The VAT on an amount net of it; ValueError where its rate is needed and not known."""
    if vat is None or treatment_of(vat) != "S":
        return 0
    if vat.rate is None:
        raise ValueError("vat.rate_percent: missing, and the payee is taxed in the payer's country")
    return round_fraction(amount_minor * vat.rate, rounding)


def _below(amount_minor: int, currency: str, rail_decimals: int | None) -> int:
    """The part of an amount that is smaller than the smallest unit of the rail."""
    if rail_decimals is None:
        return 0
    digits = exponent_of(currency) - rail_decimals
    return int(amount_minor % 10**digits) if digits > 0 else 0


def _in_payout_currency(amount_minor: int, terms: PayoutTerms) -> int:
    if terms.conversion is None:
        return amount_minor
    target = terms.conversion.currency
    exact = exact_minor(amount_minor, terms.currency, target, terms.conversion.rate)
    if terms.rail_decimals is None or terms.rail_decimals >= exponent_of(target):
        return round_fraction(exact, terms.rounding)
    # A rail with fewer digits pays less, never more than is owed.
    step: int = 10 ** (exponent_of(target) - terms.rail_decimals)
    return round_fraction(exact / step, "down") * step
