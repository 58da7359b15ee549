"""What an order and what follows it make of commissions.

Every function may be called again for the same event and then changes nothing. The amount booked
for an event is the difference of two evaluations, one without and one with it; where appending an
order cannot change an earlier one, its counters are read by SQL instead (`price_order`). Events
are booked in batches (`batches.Batch`), with the result they would have one by one.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from commissions import conversion_rates, plans, replays, shares, states, telling, told_changes
from commissions.batches import SYSTEM, Batch, Cause
from commissions.bookings import Move
from commissions.choosing import Prepared, subject_of
from commissions.folding import Conversion as Opened
from commissions.folding import changed, opened
from commissions.models import Commission, CommissionStatus
from commissions.order_events import Remaining, Share
from commissions.outcomes import CODE, reason_of_change
from commissions.reasons import Reason
from commissions.repricing import Own, Repriced
from commissions.rules import Change, CounterKey, Plan, depends_on_others, price_prepared
from commissions.states import State
from commissions.telling import Fact, Happening, Terms
from commissions.unconfirmed import waits_for_a_person
from kernel.errors import invalid
from kernel.ids import new_id
from tracker.models import Conversion, ConversionChange

# Said for every batch of orders or changes that comes in; built once, because building costs more
# than executing. Where no entity is needed none is asked for, because entities cost even more.
_conversion_table = Conversion.metadata.tables["conversion"]
_COMMISSION = (
    select(Commission)
    .where(Commission.conversion_id == sa.bindparam("conversion_id"), Commission.part == 0)
    .execution_options(populate_existing=True)
)
_PROGRAMS = (
    sa.select(_conversion_table.c.program_id)
    .distinct()
    .where(_conversion_table.c.id.in_(sa.bindparam("conversion_ids", expanding=True)))
)
_SWEPT = (CommissionStatus.PENDING, CommissionStatus.APPROVED)

ACCRUE, CHANGES, RELEASE, VOID, RATED = "accrue", "changes", "release", "void", telling.RATED


class Task(NamedTuple):
    """What is to be done for a conversion.

    `accrue` books its order, held with a `reason`; `changes` what its advertiser said since;
    `release` ends the hold; `void` declines it for good with a `reason`; `rated` books what waited
    for an exchange rate, once there is one.
    """

    kind: str
    conversion_id: str
    reason: str = ""
    actor: str = SYSTEM


class _Arrival(NamedTuple):
    """An order about to be booked, with what its plan makes of it before any counter is read.

    `prepared` is None without a plan that applies, or where only a replay can price the order.
    """

    commission: State
    fact: Fact
    hold_reason: str
    plan: Plan | None
    prepared: Prepared | None
    after: Remaining | None = None
    keys: tuple[CounterKey, ...] = ()


def book(
    session: Session, tasks: Sequence[Task], *, now: datetime, counted: Iterable[str] = ()
) -> int:
    """Book the events of the tasks in this order; the number of changes among them.

    As many statements for a thousand tasks as for ten. Whatever earns something else afterwards
    is counted anew in the roll-ups, and so are the conversions in `counted`.

    InvalidInput for a reason that is no code, NotFound for an unknown conversion, NotAttributed for
    one that was not attributed; then nothing is booked for any of them.
    """
    _check_codes(tasks)
    rated = conversion_rates.fix_waiting(session, _ids(tasks, RATED), now=now)
    orders = _intake(session, _ids(tasks, ACCRUE), now=now)
    batch = Batch(session, now=now)
    batch.count(counted)
    every = list(dict.fromkeys(task.conversion_id for task in tasks))
    programs = {fact.program_id for fact, _ in orders.values()}
    batch.lock(programs | _programs_of(session, [one for one in every if one not in orders]))
    booked = batch.read(every)
    changes = told_changes.unbooked(session, _ids(tasks, CHANGES))
    followed = {*changes, *_ids(tasks, RELEASE), *_ids(tasks, VOID), *rated}
    batch.read_ahead([one for one in booked if one in followed])
    arrivals = _arrivals(batch, tasks, orders, booked)
    conversion_rates.want(session, [one for one in arrivals if arrivals[one].fact.waits])
    _read_ahead(batch, arrivals.values(), followed)
    count = 0
    for task in tasks:
        # Taken out: the second of two tasks for the same thing finds it done.
        arrival = arrivals.pop(task.conversion_id, None) if task.kind == ACCRUE else None
        if arrival is not None:
            booked[task.conversion_id] = _accrue(batch, arrival)
        elif task.kind == RATED and task.conversion_id not in rated:
            continue
        elif task.kind != ACCRUE and task.conversion_id in booked:
            told = changes.pop(task.conversion_id, []) if task.kind == CHANGES else []
            _follow(batch, booked[task.conversion_id], task, told)
            count += len(told)
    batch.write()
    return count


def accrue(
    session: Session, conversion_id: str, *, hold_reason: str | None, now: datetime
) -> Commission | None:
    """Book the commission of a conversion; None when no publisher brought it, or for a test.

    Where several share it, that of the publisher for whom it counts; all of them are booked.

    Without a plan or a rule the commission is booked at zero with its reason. With a
    `hold_reason` (a reason code) it is held, and counts towards no tier. Raises as `book`.
    """
    book(session, [Task(ACCRUE, conversion_id, hold_reason or "")], now=now)
    return _commission(session, conversion_id)


def apply_changes(session: Session, conversion_id: str, *, now: datetime) -> int:
    """Book every change of the conversion that is not booked yet, in order; how many there were.

    A conversion that earns nobody anything has nothing to book.
    """
    return book(session, [Task(CHANGES, conversion_id)], now=now)


def release(
    session: Session, conversion_id: str, *, actor: str, now: datetime
) -> Commission | None:
    """End the hold: the commission goes where it would stand without it, and counts again.

    One that was never held, or released before, stays as it is; None when there is none.
    """
    book(session, [Task(RELEASE, conversion_id, actor=str(actor))], now=now)
    return _commission(session, conversion_id)


def void(
    session: Session, conversion_id: str, *, reason: str, actor: str, now: datetime
) -> Commission | None:
    """Decline for good with a reason code, such as `fraud_confirmed`; nothing revives it.

    What was paid already is set off against the next payout. A repeat changes nothing; None when
    there is no commission.
    """
    book(session, [Task(VOID, conversion_id, reason, str(actor))], now=now)
    return _commission(session, conversion_id)


def sweep(session: Session, *, now: datetime, rows_max: int) -> int:
    """Make commissions payable whose lock date has come, at most `rows_max`; how many moved.

    A pending one is approved first. Held ones stay, and those that wait for a person's approval.
    Call again until it returns 0.
    """
    where = (
        col(Commission.status).in_(_SWEPT),
        col(Commission.lock_at) <= now,
        ~waits_for_a_person(),
        ~conversion_rates.is_waiting(),
    )
    batch = Batch(session, now=now)
    candidates = states.find(session, *where, limit=rows_max)
    batch.lock(one.program_id for one in candidates)
    if session.get_bind().dialect.name != "sqlite":
        # Somebody may have moved one of them while we waited for its program.
        candidates = states.find(session, *where, limit=rows_max)
    candidates = batch.keep(candidates)
    due = [one for one in candidates if one.status == CommissionStatus.PENDING]
    _approve_counted(batch, due)
    # The status read in this transaction is what keeps a repeat harmless, so the key only has to
    # be a new one: an order may be approved, declined and approved again.
    batch.move(
        Move(one, new_id("swp", at=now), "", one.amount_minor, status, one.reason, SYSTEM)
        for status, moving in (
            (CommissionStatus.APPROVED, due),
            (CommissionStatus.PAYABLE, candidates),
        )
        for one in moving
        # What was approved now may have used up a budget before others.
        if one.status in _SWEPT
    )
    batch.write()
    return len(candidates)


def _approve_counted(batch: Batch, due: Sequence[State]) -> None:
    """Where tiers count approved orders only, reaching the lock date is an event of its own."""
    counting = {
        program_id
        for program_id in {one.program_id for one in due if one.plan_version_id is not None}
        if any(
            tiers.counts == "approved"
            for _, plan in batch.repricing.versions(program_id)
            for _, tiers in plan.counting
        )
    }
    ids = [
        one.conversion_id
        for one in due
        if one.plan_version_id is not None and one.program_id in counting
    ]
    approved = batch.read(list(dict.fromkeys(ids)))
    batch.read_ahead(list(approved))
    for conversion_id, commission in approved.items():
        key = f"lock:{conversion_id}:{new_id('swp', at=batch.now)}"
        happening = Happening(conversion_id, "approve", batch.now)
        batch.happen(commission, happening, Cause(key, "approve"))


def _intake(
    session: Session, conversion_ids: Sequence[str], *, now: datetime
) -> dict[str, tuple[Fact, Terms]]:
    """The orders with their rates, which those in another currency get here."""
    orders = replays.intake(session, conversion_ids)
    foreign = [
        one
        for one, (fact, terms) in orders.items()
        if fact.order.currency != terms.currency and fact.order.rate is None
    ]
    if foreign:
        conversion_rates.fix(session, foreign, now=now)
        orders |= replays.intake(session, foreign)
    return orders


def _arrivals(
    batch: Batch,
    tasks: Iterable[Task],
    orders: Mapping[str, tuple[Fact, Terms]],
    booked: Container[str],
) -> dict[str, _Arrival]:
    found: dict[str, _Arrival] = {}
    for task in tasks:
        one = task.conversion_id
        if task.kind == ACCRUE and one not in booked and one not in found:
            arrival = _arrival(batch, *orders[one], task.reason)
            if arrival is not None:
                found[one] = arrival
    return found


def _arrival(batch: Batch, fact: Fact, terms: Terms, hold_reason: str) -> _Arrival | None:
    if fact.is_test:
        return None
    version = plans.choose(batch.repricing.published(fact.program_id), fact.order.at)
    plan = plans.parsed(batch.session, version.id) if version else None
    one, prepared = None, None
    if plan is not None and _stands_alone(batch, plan, fact):
        one, prepared = opened(plan, fact.order)
    payee, shared = _payee(plan, fact, prepared)
    if not payee:
        return None
    if payee != fact.order.publisher:
        # Another is paid than the one whose click it was, and what was kept is not about them.
        order = replace(
            fact.order,
            publisher=payee,
            shares=shared,
            publisher_groups=(),
            months_since_first=None,
        )
        return _arrival(batch, replace(fact, order=order), terms, hold_reason)
    if plan is not None and not replays.convertible(plan, fact.order):
        fact = replace(fact, waits=True)
    commission = _blank(fact, terms, version.id if version else None, batch.now)
    if shared:
        _share(commission, shared, batch.now)
    if plan is None or one is None or prepared is None or depends_on_others(plan, prepared):
        return _Arrival(commission, fact, hold_reason, plan, None)
    return _alone(batch, _Arrival(commission, fact, hold_reason, plan, prepared), plan, one)


def _payee(
    plan: Plan | None, fact: Fact, prepared: Prepared | None
) -> tuple[str, tuple[Share, ...]]:
    """For whom the order counts, and who shares it."""
    if plan is None:
        return fact.order.publisher, fact.order.shares
    subject = prepared.subject if prepared is not None else subject_of(plan, fact.order)
    return subject.publisher, subject.shares


def _alone(batch: Batch, arrival: _Arrival, plan: Plan, one: Opened) -> _Arrival:
    """An order that its counters price."""
    if arrival.hold_reason:
        held = Change("hold", arrival.fact.order.id, batch.now)
        one = replace(one, changes=((1, held),))
        arrival = arrival._replace(prepared=changed(plan, one), after=one.known(None))
    if arrival.prepared is None or not arrival.prepared.sizes:
        # A plan without counters has orders without sizes.
        return arrival
    return arrival._replace(keys=tuple(sorted(arrival.prepared.sizes)))


def _stands_alone(batch: Batch, plan: Plan, fact: Fact) -> bool:
    """Whether no other version of the plan changes earlier orders when this one comes in."""
    return replays.convertible(plan, fact.order) and all(
        other is plan for other in batch.repricing.restating(fact.program_id)
    )


def _blank(fact: Fact, terms: Terms, version_id: str | None, now: datetime) -> State:
    return State(
        conversion_id=fact.order.id,
        id=new_id("cms", at=now),
        seq=fact.seq,
        program_id=fact.program_id,
        publisher_id=fact.order.publisher,
        advertiser_id=terms.advertiser_id,
        currency=terms.currency,
        plan_version_id=version_id,
        status="",
        reason="",
        occurred_at=fact.order.at,
        lock_at=fact.order.at + timedelta(days=terms.hold_days),
        base_minor=0,
        units=0,
        amount_minor=0,
        claimed_minor=0,
        updated_at=now,
    )


def _share(commission: State, shared: Sequence[Share], now: datetime) -> None:
    """Make it one of several, each with its part."""
    others: list[State] = []
    for position, (publisher_id, weight) in enumerate(shares.fractions(shared)):
        one = commission
        if publisher_id != commission.publisher_id:
            part, identity = len(others) + 1, new_id("cms", at=now)
            one = replace(commission, part=part, id=identity, publisher_id=publisher_id)
            others.append(one)
        one.position = position
        one.share_numerator, one.share_denominator = weight.numerator, weight.denominator
    commission.others = tuple(others)


def _read_ahead(batch: Batch, arrivals: Iterable[_Arrival], followed: Container[str]) -> None:
    alone, replayed = [], []
    for one in arrivals:
        if one.plan is None or one.prepared is None:
            replayed.append(one.fact)
            continue
        alone.append((one.plan, one.commission, one.keys))
        if one.fact.reported_status or one.fact.order.id in followed:
            replayed.append(one.fact)
    batch.counters.read_ahead(alone)
    batch.repricing.read_ahead(replayed)


def _accrue(batch: Batch, arrival: _Arrival) -> State:
    commission, fact = arrival.commission, arrival.fact
    own = Own(fact, commission.plan_version_id)
    batch.open(commission, own)
    happenings = [Happening(fact.order.id, "accrue", fact.order.known_at)]
    if arrival.hold_reason:
        happenings.append(Happening(fact.order.id, "hold", batch.now))
    repriced = _priced_alone(batch, arrival, own, happenings)
    if repriced is None:
        repriced = batch.repricing.happen(own, happenings)
    cause = Cause(f"accrue:{fact.order.id}", "accrue")
    batch.book(commission, repriced, cause)
    if arrival.hold_reason:
        batch.hold(commission, arrival.hold_reason)
    _apply_reported(batch, commission, fact)
    return commission


def _follow(
    batch: Batch,
    commission: State,
    task: Task,
    changes: Sequence[tuple[ConversionChange, bool]],
) -> None:
    one = commission.conversion_id
    for change, imported in changes:
        _apply(batch, commission, change, is_imported=imported)
    if task.kind == CHANGES or batch.is_booked(f"{task.kind}:{one}"):
        return
    if task.kind in {VOID, RATED} or batch.is_booked(f"hold:{one}"):
        cause = Cause(f"{task.kind}:{one}", task.kind, task.reason, task.actor)
        batch.happen(commission, Happening(one, task.kind, batch.now), cause)


def _priced_alone(
    batch: Batch, arrival: _Arrival, own: Own, happenings: Sequence[Happening]
) -> Repriced | None:
    """The order priced by its counters; None where only a replay can tell."""
    plan, prepared = arrival.plan, arrival.prepared
    if plan is None or prepared is None:
        return None
    counters: dict[CounterKey, int | Fraction] = {}
    for key in arrival.keys:
        value = batch.counters.value(plan, arrival.commission, key)
        if value is None:
            return None
        counters[key] = value
    after = arrival.after or prepared.remaining
    priced = price_prepared(plan, prepared, counters, after)
    batch.repricing.heard(own, happenings)
    return Repriced(after, priced, *replays.size_of(prepared), {})


def _apply_reported(batch: Batch, commission: State, fact: Fact) -> None:
    """An order that came in already decided."""
    kind = {"approved": "approve", "declined": "decline"}.get(fact.reported_status)
    if kind is None:
        return
    reason = Reason.DECLINED_BY_ADVERTISER if kind == "decline" else ""
    happening = Happening(fact.order.id, kind, fact.order.known_at)
    batch.happen(commission, happening, Cause(f"reported:{fact.order.id}", kind, reason))


def _apply(batch: Batch, commission: State, change: ConversionChange, *, is_imported: bool) -> None:
    happening = Happening(
        change.conversion_id,
        change.kind,
        change.occurred_at if is_imported else change.received_at,
        change.line,
        change.amount_minor,
        change.quantity,
    )
    details = {
        "change": change.id,
        "line": change.line,
        "amount_minor": change.amount_minor,
        "quantity": change.quantity,
        "said": change.reason,
    }
    cause = Cause(change.id, change.kind, reason_of_change(change), details=details)
    batch.happen(commission, happening, cause)


def _check_codes(tasks: Iterable[Task]) -> None:
    for task in tasks:
        # Only what is declined for good has to say why; an order may come in without a hold.
        if (task.reason or task.kind == VOID) and not CODE.fullmatch(task.reason):
            name = "hold_reason" if task.kind == ACCRUE else "reason"
            raise invalid(name, "reason_code", "must be 1 to 64 of a-z, 0-9 and _")


def _ids(tasks: Iterable[Task], kind: str) -> list[str]:
    return list(dict.fromkeys(task.conversion_id for task in tasks if task.kind == kind))


def _programs_of(session: Session, conversion_ids: Sequence[str]) -> set[str]:
    """The programs of these conversions, whether anything is booked for them or not.

    What somebody else is booking for one of them just now must find its program locked.
    """
    found: set[str] = set()
    for start in range(0, len(conversion_ids), replays.IDS_MAX):
        asked: dict[str, Any] = {
            "conversion_ids": list(conversion_ids[start : start + replays.IDS_MAX])
        }
        found.update(session.execute(_PROGRAMS, asked).scalars())
    return found


def _commission(session: Session, conversion_id: str) -> Commission | None:
    return session.execute(_COMMISSION, {"conversion_id": conversion_id}).scalar_one_or_none()
