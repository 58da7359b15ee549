"""What codes of other packages are called on a page, and which tone their chip has.

The English names are msgids. A code that has no name here is shown as its own words, so that a new
reason elsewhere is never an empty cell.
"""

import re
from collections.abc import Callable
from typing import Final

from commissions.reasons import sentence_of
from kernel.errors import AppError, InvalidInput
from kernel.i18n import catalogue
from tracker import attribution_words

Gettext = Callable[[str], str]


def N_(message: str) -> str:  # noqa: N802 - the extractor's customary mark
    """Mark a sentence for the catalogue; it is translated where it is shown."""
    return message


LABELS: Final[dict[str, str]] = {
    # What a commission is, from report to payment.
    "pending": N_("Pending"),
    "approved": N_("Approved"),
    "payable": N_("Payable"),
    "paid": N_("Paid"),
    "held": N_("Held"),
    "declined": N_("Declined"),
    "reversed": N_("Reversed"),
    "capped": N_("Capped"),
    "unfunded": N_("Unfunded"),
    "unattributed": N_("Unattributed"),
    "recorded": N_("Recorded"),
    # Flags and their outcomes.
    "open": N_("Open"),
    "cleared": N_("Cleared"),
    "confirmed": N_("Confirmed"),
    "allow": N_("Allow"),
    "tag": N_("Tag"),
    "hold": N_("Hold"),
    "reject": N_("Reject"),
    # Payout runs.
    "draft": N_("Draft"),
    "exported": N_("Exported"),
    "settled": N_("Settled"),
    "cancelled": N_("Cancelled"),
    # Programs, members, people.
    "active": N_("Active"),
    "paused": N_("Paused"),
    "retired": N_("Retired"),
    "suspended": N_("Suspended"),
    "manager": N_("Manager"),
    "advertiser": N_("Advertiser"),
    "publisher": N_("Publisher"),
    # Events, changes and where they came in.
    "sale": N_("Sale"),
    "lead": N_("Lead"),
    "refund": N_("Refund"),
    "cancel": N_("Cancellation"),
    "approve": N_("Approval"),
    "decline": N_("Refusal"),
    "accrue": N_("Accrual"),
    "tier_true_up": N_("Tier true-up"),
    "rerate": N_("Rated again"),
    "previewed": N_("Preview"),
    "dismissed": N_("Let go"),
    "release": N_("Release from hold"),
    "void": N_("Declined by the network"),
    "postback": N_("Postback"),
    "api": N_("API"),
    "pixel": N_("Pixel"),
    "upload": N_("File"),
    # What became of a report, and where a file stands.
    "accepted": N_("Taken in"),
    "duplicate": N_("Known already"),
    "ignored": N_("Ignored: the first report stays"),
    "conflict": N_("Contradiction"),
    "status": N_("Status"),
    "invalid": N_("Not valid"),
    "queued": N_("Waiting"),
    "running": N_("In progress"),
    "done": N_("Done"),
    "failed": N_("Failed"),
    "import": N_("Import"),
    "new": N_("New customer"),
    "returning": N_("Returning customer"),
    "click": N_("Click"),
    "customer": N_("Customer seen before"),
    "order": N_("Earlier order"),
    "preferred": N_("Preferred partner"),
    "manual": N_("Assigned by hand"),
    "initiator": N_("began it"),
    "contributor": N_("helped"),
    "converter": N_("completed it"),
    # Coupons: how a code is compared, and what it does.
    "EQUALS": N_("exact"),
    "STARTS_WITH": N_("beginning"),
    "ENDS_WITH": N_("end"),
    "CONTAINS": N_("any part"),
    "owner": N_("where no click decides"),
    "exclusive": N_("always the owner's"),
    "suppressed": N_("pays nobody"),
    "none": N_("None"),
    # Where a version of rules, a coupon or a secret stands today.
    "in_force": N_("In force"),
    "coming": N_("Coming"),
    "replaced": N_("Replaced"),
    "ended": N_("Ended"),
    # What reports are grouped by, and the values of it that are codes.
    "hour": N_("Hour"),
    "day": N_("Day"),
    "week": N_("Week"),
    "month": N_("Month"),
    "program": N_("Program"),
    "link": N_("Link"),
    "country": N_("Country"),
    "device": N_("Device"),
    "s1": N_("Sub-id 1"),
    "s2": N_("Sub-id 2"),
    "s3": N_("Sub-id 3"),
    "s4": N_("Sub-id 4"),
    "s5": N_("Sub-id 5"),
    "reason": N_("Reason"),
    "desktop": N_("Desktop"),
    "mobile": N_("Phone"),
    "tablet": N_("Tablet"),
    "tv": N_("TV"),
    "bot": N_("Robot"),
    "unknown": N_("Unknown"),
    "not_a_member": N_("Not a member"),
    "head": N_("Asked for by a machine"),
    "prefetch": N_("Loaded in advance"),
    "preview": N_("Preview"),
    "link_retired": N_("Link retired"),
    "no_consent": N_("No consent"),
    "no_consent_tcf": N_("No consent (TCF)"),
    "global_privacy_control": N_("Global Privacy Control"),
    # How well tracking does.
    "green": N_("Fine"),
    "amber": N_("Look at it"),
    "red": N_("Act now"),
}

_CHECKS: Final[dict[str, str]] = {
    "conversions": N_("Orders expected"),
    "silence": N_("Silence"),
    "no_click": N_("Orders without a click"),
    "unmatched": N_("Clicks that decide nothing"),
    "late": N_("Late reports"),
    "conflicts": N_("Contradictions"),
    "refused": N_("Refused reports"),
    "repeat_clicks": N_("Repeated clicks"),
    "repeat_orders": N_("Repeated orders"),
    "links": N_("Pages behind links"),
}

_TAG: Final = N_("Tag of the page")

_STEPS: Final[dict[str, str]] = {
    "propose": N_("Proposed"),
    "approve": N_("Approved"),
    "export": N_("Exported"),
    "settle": N_("Settled"),
    "cancel": N_("Cancelled"),
}

TONES: Final[dict[str, str]] = {
    "approved": "good",
    "payable": "good",
    "paid": "done",
    "settled": "done",
    "cleared": "good",
    "active": "good",
    "in_force": "good",
    "coming": "info",
    "done": "good",
    "running": "info",
    "queued": "info",
    "failed": "bad",
    "conflict": "warn",
    "invalid": "bad",
    "held": "warn",
    "hold": "warn",
    "tag": "warn",
    "open": "warn",
    "unfunded": "warn",
    "paused": "warn",
    "suspended": "warn",
    "capped": "warn",
    "exported": "info",
    "draft": "info",
    "declined": "bad",
    "reversed": "bad",
    "confirmed": "bad",
    "reject": "bad",
    "green": "good",
    "amber": "warn",
    "red": "bad",
}


def label(code: str, *, gettext: Gettext) -> str:
    """The name of a code; an unknown code is read out: `no_click` gives `No click`."""
    if not code:
        return ""
    known = LABELS.get(code)
    return gettext(known) if known else _read_out(code)


def _read_out(code: str) -> str:
    return code.replace("_", " ").capitalize()


def reason(code: str, *, language: str, gettext: Gettext) -> str:
    """Why a commission stands where it does, as a sentence; the code read out if it has none."""
    sentence = sentence_of(code)
    if sentence != code:
        return catalogue("commissions", language).gettext(sentence)
    return label(code, gettext=gettext)


def attribution(code: str, *, language: str) -> str:
    """Why an order has the publisher it has, as a sentence."""
    return attribution_words.sentence(code, language)


def channel(code: str, *, gettext: Gettext) -> str:
    """By which way a report came in."""
    # What fraud does with an order is called the same, and is another word in other languages.
    return gettext(_TAG) if code == "tag" else label(code, gettext=gettext)


def health_check(code: str, *, gettext: Gettext) -> str:
    """What a check of tracking health looks at."""
    known = _CHECKS.get(code)
    return gettext(known) if known else _read_out(code)


def step(code: str, *, gettext: Gettext) -> str:
    """What somebody did with a payout run."""
    known = _STEPS.get(code)
    return gettext(known) if known else _read_out(code)


def signal_name(code: str, name: str, language: str) -> str:
    """The name of a fraud signal; the code read out for one that no longer exists."""
    return catalogue("fraud", language).gettext(name) if name else _read_out(code)


def said(sentence: str, *, gettext: Gettext) -> str:
    """A sentence another package wrote, in the reader's language where the catalogue has it."""
    return gettext(sentence) if sentence else ""


def tone(code: str) -> str:
    """The chip's tone: good, done, warn, bad, info, or calm for everything else."""
    return TONES.get(code, "calm")


_DONE: Final[dict[str, str]] = {
    "plan_published": N_("The plan is published."),
    "notice_set": N_("The notice period is promised."),
    "rerate_confirmed": N_("The differences are being booked."),
    "rerate_dismissed": N_("Nothing was booked."),
    "uploaded": N_("The file is taken in. Its rows are worked on now."),
    "signed_out": N_("You are signed out."),
    "flag_cleared": N_("The flag is cleared. The commission goes on."),
    "flag_confirmed": N_("The flag is confirmed. The commission is withdrawn."),
    "link_made": N_("The short link is made. It works within seconds."),
    "link_retired": N_("The short link is retired. Its visitors go to the fallback page."),
    "rules_published": N_("The version is published. Orders are judged by it from its time on."),
    "group_kept": N_("The group is kept. Rules can name it by its code."),
    "members_kept": N_("Saved. Orders that are decided keep their groups."),
    "coupons_added": N_("The coupons are added."),
    "coupon_ended": N_("The coupon is ended. Orders that were decided keep their publisher."),
    "tracking_set": N_("Saved. Trackers follow within seconds."),
    "tag_orders_set": N_("Saved. Orders that are recorded already stay as they are."),
    "secret_retired": N_("The secret is retired. Nothing signed with it is taken in any more."),
    "run_proposed": N_("The payout run is proposed. A second person approves it."),
    "run_proposed_alone": N_("The payout run is proposed. Check it and approve it next."),
    "run_approved": N_("The payout run is approved. Download the bank file next."),
    "run_settled": N_("The payout run is settled."),
    "run_cancelled": N_("The payout run is cancelled. Its amounts are payable again."),
}

# What went wrong, by the error's code, where its reader is a person at a form.
_PROBLEMS: Final[dict[str, str]] = {
    "unauthenticated": N_("The e-mail address or the password is wrong."),
    "too_many_requests": N_("Too many attempts with a wrong password. Try again in 15 minutes."),
    "forbidden": N_("This page belongs to another role. Your account may not open it."),
    "wrong_form": N_(
        "The form did not come from a page of this session. Open the page again and repeat."
    ),
    "not_found": N_("There is no such page, or it is not yours to see."),
    "too_large": N_("The form is larger than this server reads."),
    "too_many_file_rows": N_("The file has more rows than this server takes at once."),
    "flag_decided": N_("This flag was decided meanwhile. Nothing was changed."),
    "payout_state": N_("The run has moved on meanwhile. Nothing was changed."),
    "payout_same_eyes": N_("Somebody other than the person who proposed the run must approve it."),
    "link_code_taken": N_("Another short link has this code. Choose another one."),
    "not_joined": N_("You are not an approved member of this program; nothing was made."),
    "too_many_links": N_("You have as many short links as this network allows. Retire some."),
    "notice_too_short": N_(
        "The plan lowers what somebody can earn, sooner than promised. Nothing was published."
    ),
    "too_many_jobs": N_("So many jobs of this program wait as there may be. Try again later."),
    "not_confirmable": N_("Only a preview can be confirmed or let go. Nothing was changed."),
    "coupon_taken": N_("A coupon with this code is in force in the same time. Nothing was added."),
    "too_many_secrets": N_("So many secrets are in force as there may be. Retire one first."),
    "unavailable": N_("The database does not answer. Nothing was changed; try again in a moment."),
}

_RULES: Final[dict[tuple[str, str], str]] = {
    ("note", "length"): N_("Write a note of 1 to 2,000 characters that says why."),
    ("reference", "length"): N_("Enter the reference of the bank, 1 to 140 characters."),
    ("minimum_minor", "integer"): N_("The minimum is a whole number of minor units, 0 or more."),
    ("outcome", "required"): N_("Choose whether to clear or to confirm."),
    ("url", "url"): N_("The page must be a plain address that begins with https://."),
    ("url", "length"): N_("The address of the page is longer than a link can hold."),
    ("url", "foreign"): N_("The page is not on one of the program's own domains."),
    ("program", "missing"): N_("Choose a program."),
    ("code", "format"): N_("A code is 3 to 64 of a-z, 0-9 and inner hyphens."),
    ("code", "reserved"): N_("This word is kept for the network. Choose another one."),
    ("cursor", "cursor"): N_("This link into the list is damaged. Start from its first page."),
    ("group_by", "combination"): N_("These two groupings do not go together. Choose another."),
    ("group_by", "count"): N_("Choose one grouping, or two different ones."),
    ("from", "day"): N_("Values of clicks are counted by whole days."),
    ("to", "order"): N_("The last day is before the first."),
    ("to", "range"): N_("This is too long a time for this grouping."),
    ("from", "range"): N_("Hours of so long ago are not kept. Group by day."),
    ("from", "date"): N_("A date looks like 2026-03-10."),
    ("to", "date"): N_("A date looks like 2026-03-10."),
    ("reason", "length"): N_("Write 10 to 500 characters that say why."),
    ("notice_waiver", "length"): N_("Write 10 to 500 characters that say why."),
    ("notice_days", "range"): N_("The notice period is 0 to 366 days."),
    ("notice_days", "integer"): N_("The notice period is 0 to 366 days."),
    ("from", "missing"): N_("Choose the first and the last day."),
    ("effective_from", "date"): N_("A day and time look like 2026-03-10T09:30."),
    ("effective_from", "past"): N_("Only a manager may publish rules for orders of the past."),
    ("window_hours", "range"): N_("The window is a whole number of hours, 1 to 8,760."),
    ("stand_down_seconds", "range"): N_("The stand-down is a whole number of seconds, 0 to 3,600."),
    ("in_cart_seconds", "range"): N_("The basket's time is whole seconds, 0 to 3,540."),
    ("customer_days", "range"): N_("Earlier orders reach back 0 to 3,650 whole days."),
    ("sources", "choice"): N_("Each thing that decides can stand in the list once."),
    ("excluded", "publisher"): N_("Among those without a part is one who is no publisher here."),
    ("excluded", "group"): N_("Among those without a part is a group that is not in the JSON."),
    ("params.half_life_days", "range"): N_("The half-life is up to 365 days, in whole seconds."),
    ("params.last_percent", "sum"): N_("First and last click have at most 100 % together."),
    ("params.converter_percent", "sum"): N_("The three parts must be 100 % together."),
    ("more", "json"): N_("The rules for some orders are not JSON."),
    ("more", "fields"): N_("The JSON may hold groups, preferred and rules, and nothing else."),
    ("code", "missing"): N_("Enter a code."),
    ("code", "length"): N_("A code has 1 to 128 characters; to match a part of one, at least 3."),
    ("publisher", "missing"): N_("Choose the publisher that the code belongs to."),
    ("publisher", "effect"): N_("A code that pays nobody belongs to nobody."),
    ("publisher", "unknown"): N_("This publisher is none of the program's."),
    ("ends_at", "order"): N_("The last day is before the first."),
    ("fallback_url", "url"): N_("The fallback page is a plain address that begins with https://."),
    ("coupon", "length"): N_("A coupon has at most 64 characters."),
    ("click_parameter", "format"): N_("A parameter is 1 to 32 of letters, digits, _ and inner - ."),
}
_ANY_PARAM: Final[dict[str, str]] = {
    "unknown": N_("A figure is filled in that belongs to another model. Empty it."),
    "percent": N_("A part is a percentage from 0 to 100, such as 12.5."),
}
_IN_ROW: Final = re.compile(r"coupons\[(\d+)\]\.(.+)")


def done(code: str, *, gettext: Gettext) -> str:
    """What a form has just done; nothing for a code that is none of ours."""
    return gettext(_DONE[code]) if code in _DONE else ""


def problem(error: AppError | None, *, gettext: Gettext) -> str:
    """What was wrong with a form, in one sentence."""
    return "" if error is None else refusal(error, gettext=gettext)


def refusal(error: AppError, *, gettext: Gettext) -> str:
    """A refusal in the reader's language; the error's own sentence when there is no other."""
    if isinstance(error, InvalidInput):
        first = error.problems[0]
        if row := _IN_ROW.fullmatch(first.field):
            said = _broken(row[2], first.rule, first.message, gettext)
            return gettext("Line {number}: {said}").format(number=int(row[1]) + 1, said=said)
        return _broken(first.field, first.rule, first.message, gettext)
    known = _PROBLEMS.get(error.code)
    return gettext(known) if known else gettext(error.message)


def _broken(field: str, rule: str, message: str, gettext: Gettext) -> str:
    known = _RULES.get((field, rule))
    if known is None and field.startswith("params."):
        known = _ANY_PARAM.get(rule)
    return gettext(known) if known else f"{field}: {gettext(message)}"
