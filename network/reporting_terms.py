"""How a program's orders are reported.

What a second report of an order does, which of the advertiser's words mean which status, and the
secrets that reports may be signed with.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlmodel import Session, col, select

from kernel import audit
from kernel.errors import FieldProblem, InvalidInput, NotFound, Refused
from kernel.ids import new_id
from kernel.keys import Keys
from kernel.money import EXPONENTS
from network.models import Program, SigningSecret
from network.programs import touch_routing

WORDS_MAX: Final = 100
EVENTS_MAX: Final = 50
SECRETS_MAX: Final = 5
_WORD_CHARS_MAX: Final = 64
_EVENT: Final = re.compile(r"[a-z_]{1,32}", re.ASCII)


class DuplicateMode(StrEnum):
    """What another content of a known order (same order id, same event) does."""

    REFUSE = "refuse"
    IGNORE = "ignore"
    NEW = "new"
    EDIT = "edit"
    ADD = "add"


class TooManySecrets(Refused):
    """The program has as many signing secrets in force as it may have; retire one first."""

    code = "too_many_secrets"


def set_reporting(
    session: Session,
    program: Program,
    *,
    duplicate_modes: Mapping[str, str],
    status_words: Mapping[str, str],
    statuses: Sequence[str],
    actor: str,
    now: datetime,
    other_currencies: Sequence[str] | None = None,
) -> None:
    """Replace both maps, and the currencies taken in beside the program's own unless None.

    Orders that are recorded stay as they are; a repeat changes nothing. `statuses` are the words a
    status may mean. InvalidInput names what breaks a rule.
    """
    currencies = sorted(
        set(program.other_currencies if other_currencies is None else other_currencies)
    )
    problems = [
        *_check_modes(duplicate_modes),
        *_check_words(status_words, statuses),
        *_check_currencies(currencies, program.currency),
    ]
    if problems:
        raise InvalidInput(problems)
    modes = {event: mode for event, mode in duplicate_modes.items() if mode != DuplicateMode.REFUSE}
    words = {word.strip().lower(): status for word, status in status_words.items()}
    before = {
        "duplicates": program.duplicate_modes,
        "status_words": program.status_words,
        "other_currencies": program.other_currencies,
    }
    after = {"duplicates": modes, "status_words": words, "other_currencies": currencies}
    if before == after:
        return
    audit.record(
        session,
        actor=actor,
        action="program.reporting",
        subject_id=program.id,
        now=now,
        before=before,
        after=after,
    )
    program.duplicate_modes, program.status_words = modes, words
    program.other_currencies = currencies
    session.add(program)
    touch_routing(session)


def _check_modes(modes: Mapping[str, str]) -> list[FieldProblem]:
    problems = []
    if len(modes) > EVENTS_MAX:
        problems.append(FieldProblem("duplicates", "count", f"must be at most {EVENTS_MAX}"))
    for event, mode in modes.items():
        if not _EVENT.fullmatch(event):
            problems.append(
                FieldProblem("duplicates", "event", f"events must match {_EVENT.pattern}")
            )
        if mode not in tuple(DuplicateMode):
            listed = ", ".join(DuplicateMode)
            problems.append(FieldProblem("duplicates", "choice", f"must be one of {listed}"))
    return problems


def _check_currencies(currencies: Sequence[str], own: str) -> list[FieldProblem]:
    unknown = [code for code in currencies if code not in EXPONENTS]
    if unknown:
        return [FieldProblem("other_currencies", "iso_4217", "must be ISO 4217 currencies")]
    if own in currencies:
        return [FieldProblem("other_currencies", "own", f"{own} is the program's own already")]
    return []


def _check_words(words: Mapping[str, str], statuses: Sequence[str]) -> list[FieldProblem]:
    problems = []
    if len(words) > WORDS_MAX:
        problems.append(FieldProblem("status_words", "count", f"must be at most {WORDS_MAX}"))
    for word, status in words.items():
        if not 0 < len(word.strip()) <= _WORD_CHARS_MAX or not word.isprintable():
            problems.append(
                FieldProblem(
                    "status_words", "word", f"must be 1 to {_WORD_CHARS_MAX} printable characters"
                )
            )
        if status not in statuses:
            listed = ", ".join(statuses)
            problems.append(FieldProblem("status_words", "choice", f"must mean one of {listed}"))
    return problems


def signing_key(keys: Keys, secret_id: str) -> bytes:
    """The 32 bytes of a signing secret: equal on every node, kept nowhere."""
    return keys.derive(f"order-signing:{secret_id}")


def add_secret(session: Session, program: Program, *, actor: str, now: datetime) -> SigningSecret:
    """A signing secret of the program, in force at once; those before it stay in force."""
    if len([one for one in secrets_of(session, program) if one.retired_at is None]) >= SECRETS_MAX:
        raise TooManySecrets(
            f"a program has at most {SECRETS_MAX} signing secrets in force", limit=SECRETS_MAX
        )
    row = SigningSecret(id=new_id("sgn", at=now), program_id=program.id, created_at=now)
    session.add(row)
    audit.record(session, actor=actor, action="signing_secret.create", subject_id=row.id, now=now)
    touch_routing(session)
    session.flush()
    return row


def retire_secret(
    session: Session, program: Program, secret_id: str, *, actor: str, now: datetime
) -> SigningSecret:
    """End a secret of the program; NotFound for any other, a repeat changes nothing."""
    row = session.get(SigningSecret, secret_id)
    if row is None or row.program_id != program.id:
        raise NotFound("no such signing secret", kind="signing_secret")
    if row.retired_at is None:
        row.retired_at = now
        session.add(row)
        audit.record(
            session, actor=actor, action="signing_secret.retire", subject_id=row.id, now=now
        )
        touch_routing(session)
    return row


def secrets_of(session: Session, program: Program) -> list[SigningSecret]:
    """The program's signing secrets, oldest first, retired ones included."""
    query = select(SigningSecret).where(SigningSecret.program_id == program.id)
    return list(session.exec(query.order_by(col(SigningSecret.id))))
