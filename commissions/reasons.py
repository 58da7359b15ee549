"""Why a commission stands aside, is zero or fell: codes for programs, sentences for people."""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A stable code; `sentence` is its English, the key of every translation."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Self:
        """A member whose value is the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    NO_PLAN = "no_plan", "No commission plan was in force when the order occurred."
    NO_RULE = "no_rule", "No rule of the commission plan matches this order."
    NO_RATE = (
        "no_rate",
        "There is no exchange rate for the order's currency yet; it is booked when one comes.",
    )
    ZERO_RATE = "zero_rate", "The rule that matches pays nothing for this order."
    COUPON_SUPPRESSED = "coupon_suppressed", "The plan pays nothing for orders with this coupon."
    CAPPED = "capped", "A cap of the plan limits the commission."
    PUBLISHER_CAP = "publisher_cap", "The plan's cap for a publisher limits the commission."
    PROGRAM_BUDGET = "program_budget", "The budget of the program limits the commission."
    SHARE_TOO_SMALL = "share_too_small", "The publisher's share rounds to nothing."
    PARTLY_REFUNDED = "partly_refunded", "Part of the order was refunded."
    REFUNDED = "refunded", "The whole order was refunded."
    CANCELLED = "cancelled", "The advertiser cancelled the order."
    DECLINED_BY_ADVERTISER = "declined_by_advertiser", "The advertiser declined the order."
    RESTATED = "restated", "The advertiser restated the order; a later report took its place."
    RETURNED = "returned", "The customer returned the goods."
    CANNOT_SHIP = "cannot_ship", "The shop cannot ship the goods."
    OUT_OF_STOCK = "out_of_stock", "The goods are out of stock."
    CUSTOMER_CANCELLED = "customer_cancelled", "The customer cancelled the order."
    PAYMENT_FAILED = "payment_failed", "The customer's payment failed."
    DUPLICATE = "duplicate", "The order was reported twice."
    FRAUD = "fraud", "The advertiser found that the order is not genuine."
    TERMS_VIOLATED = "terms_violated", "The order breaks the terms of the program."
    OTHER_PUBLISHER = "other_publisher", "The order was credited to another publisher."
    TEST = "test", "The order was a test."
    OTHER = "other", "The advertiser names another reason."
    TIER_CHANGED = "tier_changed", "A change of another order moved the tier of this one."
    RERATED = "rerated", "The plan was corrected and the order was rated again."
    FRAUD_SUSPECTED = "fraud_suspected", "The order is on hold until a manager has looked at it."
    FRAUD_CONFIRMED = "fraud_confirmed", "A manager confirmed that the order is not genuine."
    NOT_POSITIVE = "not_positive", "There is nothing to pay once refunds are set off."
    BELOW_MINIMUM = "below_minimum", "The amount is below the minimum for a payout."
    CLAIMED_MEANWHILE = "claimed_meanwhile", "Another payout run or a refund came first."
    PAYOUT_FAILED = "payout_failed", "The payout could not be prepared."


_SENTENCES = {str(reason): reason.sentence for reason in Reason}


def sentence_of(code: str) -> str:
    """The English sentence of a code; a code of another package stands for itself."""
    return _SENTENCES.get(code, code)
