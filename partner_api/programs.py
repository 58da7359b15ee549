"""Programs and their terms, as each party knows them."""

from typing import Any

from pydantic import BaseModel, Field
from sqlmodel import Session

from commissions import notices, own_terms, plan_words, plans, tier_standing
from commissions.models import PlanVersion
from commissions.tier_standing import Standing
from commissions.tiers import Level, Number
from kernel import i18n, pages
from kernel.errors import Forbidden, InvalidInput, NotFound, invalid
from kernel.http import Call, Endpoint, NoQuery
from network import publishers
from network.access import Actor, require
from network.models import Program, Role
from partner_api import lookups
from partner_api.plans import WaiverView, waiver_view
from partner_api.schemas import (
    Instant,
    Language,
    PageQuery,
    Text,
    Time,
    after_number,
    cut,
    path_id,
    rows_wanted,
)
from tracker import deep_links

_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)


class TermsQuery(NoQuery):
    """Which moment's terms."""

    at: Instant | None = Field(None, description="When the order occurred; now when left out.")
    lang: Language | None = Field(None, description="Else what `Accept-Language` asks for.")


class TiersQuery(NoQuery):
    """Whose counters."""

    publisher: Text | None = Field(
        None, description="Code or id of a publisher; a publisher reads its own."
    )
    lang: Language | None = Field(None, description="Else what `Accept-Language` asks for.")


class TermsSummary(BaseModel):
    """The plan version in force now, in short.

    The percentages are the lowest and the highest of its base rules, null when it pays none.
    """

    version: int
    effective_from: Time
    percent_min: str | None
    percent_max: str | None


class ProgramView(BaseModel):
    """A program. `tracking_link` is the reader's own, for publishers only."""

    id: str
    code: str
    name: str
    status: str
    currency: str
    timezone: str
    landing_url: str
    allowed_domains: list[str]
    attribution_window_hours: int
    hold_days: int
    terms: TermsSummary | None
    tracking_link: str | None


class ProgramPage(BaseModel):
    """Programs in the order in which they were added."""

    data: list[ProgramView]
    next_cursor: str | None


class NextTermsView(BaseModel):
    """The version that is published to follow, and what it says to the reader."""

    version: int
    effective_from: Time
    published_at: Time
    content_hash: str
    document: dict[str, Any]
    words: list[str]


class TermsView(BaseModel):
    """A published plan version, as it applies to the reader.

    It holds for orders in [`effective_from`, `effective_to`). A publisher reads the document
    without the rules that are for other publishers only; `words` says the same in sentences.
    `content_hash` is that of the whole document: it changes whenever any part of it does. Rates are
    lowered `notice_days` after they were published at the earliest, unless a version says that this
    was waived, and why.
    """

    program_id: str
    version: int
    effective_from: Time
    effective_to: Time | None
    published_at: Time
    content_hash: str
    notice_days: int
    notice_waived: WaiverView | None
    document: dict[str, Any]
    language: str
    words: list[str]
    next: NextTermsView | None


class LevelView(BaseModel):
    """A level of a tier: where it begins and what it pays. Rates are exact, `a/b` if need be."""

    start: int = Field(serialization_alias="from")
    percent: str
    per_unit: str
    fixed_minor: int
    flat_minor: int


class TierView(BaseModel):
    """Where a publisher stands in a counter of a rule, in the window that runs now.

    `measured` and `missing` are numbers of orders or units, or exact minor units; null where orders
    of other publishers count too. `level` pays now, `next_level` from `missing` more on.
    """

    rule_id: str
    mode: str
    measure: str
    scope: dict[str, str]
    window_start: Time | None
    window_end: Time | None
    measured: str | None
    missing: str | None
    level: LevelView | None
    next_level: LevelView | None
    words: list[str]


class TiersView(BaseModel):
    """A publisher's counters of a program under the plan in force."""

    program_id: str
    publisher_id: str
    language: str
    data: list[TierView]


def list_programs(call: Call) -> ProgramPage:
    """A publisher's joined programs with its tracking links, an advertiser's own, a manager's all.

    The terms are those in force now; what applies to an order is decided by when it occurred.
    """
    limit = rows_wanted(call)
    programs = lookups.page_of_programs(
        call.session, call.actor, after_number=after_number(call), limit=limit + 1
    )
    shown, last = cut(programs, limit)
    code = _publisher_code(call.session, call.actor)
    return ProgramPage(
        data=[_view(call, program, publisher_code=code) for program in shown],
        next_cursor=pages.encode(last.number) if last else None,
    )


def read_terms(call: Call) -> TermsView:
    """The commission plan in force at a moment, as published. 404 when there was none."""
    program = lookups.visible_program(call.session, call.actor, path_id(call, "id"))
    version = plans.version_at(call.session, program.id, call.query.at or call.now)
    if version is None:
        raise NotFound("no commission plan was in force", kind="plan_version")
    language = _language(call)
    following = plans.next_after(call.session, program.id, version)
    document = _document(version, call.actor)
    return TermsView(
        program_id=program.id,
        version=version.version,
        effective_from=version.effective_from,
        effective_to=following.effective_from if following else None,
        published_at=version.published_at,
        content_hash=version.content_hash,
        notice_days=notices.days_at(call.session, program.id, call.now),
        notice_waived=waiver_view(notices.waivers(call.session, [version.id]).get(version.id)),
        document=document,
        language=language,
        words=plan_words.tell(document, language),
        next=_next(following, call.actor, language) if following else None,
    )


def read_tiers(call: Call) -> TiersView:
    """Where a publisher stands in the tiers of a program, and what is missing to the next level."""
    program = lookups.visible_program(call.session, call.actor, path_id(call, "id"))
    wanted = call.query.publisher
    if wanted is None and call.actor.role is Role.PUBLISHER:
        wanted = call.actor.party_id
    if wanted is None:
        raise invalid("publisher", "missing", "is required: whose tiers?")
    publisher = lookups.visible_publisher(call.session, call.actor, wanted)
    language = _language(call)
    found = tier_standing.standings(call.session, program.id, publisher.id, now=call.now)
    return TiersView(
        program_id=program.id,
        publisher_id=publisher.id,
        language=language,
        data=[_tier(one, program.currency, language) for one in found],
    )


def _language(call: Call) -> str:
    return i18n.choose(call.query.lang, call.request.headers.get("accept-language"))


def _next(version: PlanVersion, actor: Actor, language: str) -> NextTermsView:
    document = _document(version, actor)
    return NextTermsView(
        version=version.version,
        effective_from=version.effective_from,
        published_at=version.published_at,
        content_hash=version.content_hash,
        document=document,
        words=plan_words.tell(document, language),
    )


def _tier(one: Standing, currency: str, language: str) -> TierView:
    return TierView(
        rule_id=one.rule.id,
        mode=one.tiers.mode,
        measure=one.tiers.measure,
        scope=dict(one.scope),
        window_start=one.starts,
        window_end=one.ends,
        measured=_text(one.measure),
        missing=_text(one.missing),
        level=_level(one.level),
        next_level=_level(one.following),
        words=tier_standing.words(one, currency, language),
    )


def _text(number: Number | None) -> str | None:
    return None if number is None else str(number)


def _level(level: Level | None) -> LevelView | None:
    if level is None:
        return None
    percent, per_unit = level.words
    return LevelView(
        start=level.start,
        percent=percent,
        per_unit=per_unit,
        fixed_minor=level.fixed_minor,
        flat_minor=level.flat_minor,
    )


def _publisher_code(session: Session, actor: Actor) -> str | None:
    if actor.role is not Role.PUBLISHER:
        return None
    return publishers.get(session, actor.party_id).code


def _view(call: Call, program: Program, *, publisher_code: str | None) -> ProgramView:
    link = None
    if publisher_code is not None:
        link = deep_links.build(
            call.context.settings.public_url, program=program.code, publisher=publisher_code
        )
    version = plans.version_at(call.session, program.id, call.now)
    return ProgramView(
        id=program.id,
        code=program.code,
        name=program.name,
        status=program.status,
        currency=program.currency,
        timezone=program.timezone,
        landing_url=program.landing_url,
        allowed_domains=program.allowed_domains,
        attribution_window_hours=program.attribution_window_hours,
        hold_days=program.hold_days,
        terms=_summary(version, call.actor) if version else None,
        tracking_link=link,
    )


def _summary(version: PlanVersion, actor: Actor) -> TermsSummary:
    lowest, highest = own_terms.percents(_document(version, actor)) or (None, None)
    return TermsSummary(
        version=version.version,
        effective_from=version.effective_from,
        percent_min=lowest,
        percent_max=highest,
    )


def _document(version: PlanVersion, actor: Actor) -> dict[str, Any]:
    if actor.role is not Role.PUBLISHER:
        return version.document
    return own_terms.narrowed(version.document, actor.party_id)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/programs",
        handler=list_programs,
        summary="List programs",
        tag="Programs",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=PageQuery,
        reply=ProgramPage,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/terms",
        handler=read_terms,
        summary="Read the terms of a program",
        tag="Programs",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=TermsQuery,
        reply=TermsView,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/tiers",
        handler=read_tiers,
        summary="Read where a publisher stands in tiers",
        tag="Programs",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=TiersQuery,
        reply=TiersView,
        errors=(Forbidden, NotFound, InvalidInput),
    ),
)
