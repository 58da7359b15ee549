"""What a publisher's programs pay, what will change, and how far the next level is."""

from dataclasses import dataclass
from typing import Final

from starlette.responses import Response

from commissions import notices, own_terms, plan_words, plans, tier_standing
from commissions.models import PlanVersion
from commissions.plan_models import PlanWaiver
from console import reads
from console.pages import View, Visit
from network.models import Program, Role

PROGRAMS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Terms:
    """A program with what it pays this publisher, now and next, and where its levels stand."""

    program: Program
    version: PlanVersion | None
    words: list[str]
    following: PlanVersion | None
    following_words: list[str]
    notice_days: int
    waiver: PlanWaiver | None
    standings: list[list[str]]


def _show(visit: Visit) -> Response:
    found = reads.programs(visit.session, visit.actor)
    return visit.page(
        "publishers/terms.html",
        found=[_terms(visit, one) for one in found[:PROGRAMS_SHOWN]],
        has_more=len(found) > PROGRAMS_SHOWN,
    )


def _terms(visit: Visit, program: Program) -> Terms:
    version = plans.version_at(visit.session, program.id, visit.now)
    following = plans.next_after(visit.session, program.id, version) if version else None
    waivers = notices.waivers(visit.session, [version.id] if version else [])
    standings = tier_standing.standings(
        visit.session, program.id, visit.actor.party_id, now=visit.now
    )
    return Terms(
        program=program,
        version=version,
        words=_words(visit, version),
        following=following,
        following_words=_words(visit, following),
        notice_days=notices.days_at(visit.session, program.id, visit.now),
        waiver=waivers.get(version.id) if version else None,
        standings=[tier_standing.words(one, program.currency, visit.language) for one in standings],
    )


def _words(visit: Visit, version: PlanVersion | None) -> list[str]:
    if version is None:
        return []
    own = own_terms.narrowed(version.document, visit.actor.party_id)
    return plan_words.tell(own, visit.language)


VIEWS: Final = (View(method="GET", path="/terms", handler=_show, roles=(Role.PUBLISHER,)),)
