"""Programs: the terms in force in words, and who takes part. Advertisers see their own."""

from typing import Final

from starlette.responses import Response

from commissions import plan_words, plans
from console import credit_words, reads
from console.credit_words import CreditText
from console.pages import View, Visit
from network import programs
from network.models import Program, Role
from tracker import attribution_terms, coupons
from tracker.models import AttributionTerms

WHO: Final = (Role.ADVERTISER, Role.MANAGER)
COUPONS_SHOWN: Final = 20


def own(visit: Visit) -> Program:
    """The program of the page, if it is the visitor's to see; NotFound otherwise."""
    return programs.one_of(visit.session, visit.actor, visit.path["program_id"])


def in_words(visit: Visit, program: Program, version: AttributionTerms | None) -> CreditText:
    """A version of a program's rules of attribution in words, publishers by their names."""
    named = {
        one.publisher.id: one.publisher.name for one in reads.members(visit.session, program.id)
    }
    return credit_words.read(
        version.document if version else {},
        window_hours=program.attribution_window_hours,
        names=named,
        gettext=visit.gettext,
    )


def _list(visit: Visit) -> Response:
    found = reads.programs(visit.session, visit.actor)
    return visit.page(
        "programs/list.html",
        programs=found,
        advertisers=reads.advertiser_names(
            visit.session, {program.advertiser_id for program in found}
        ),
        versions={
            program.id: plans.version_at(visit.session, program.id, visit.now) for program in found
        },
    )


def _detail(visit: Visit) -> Response:
    program = own(visit)
    version = plans.version_at(visit.session, program.id, visit.now)
    found = coupons.page(visit.session, program.id, limit=COUPONS_SHOWN + 1)
    attribution = attribution_terms.version_at(visit.session, program.id, visit.now)
    return visit.page(
        "programs/program.html",
        program=program,
        advertisers=reads.advertiser_names(visit.session, {program.advertiser_id}),
        version=version,
        terms=plan_words.read(version.document, plan_words.gettext_of(visit.language))
        if version
        else None,
        members=reads.members(visit.session, program.id),
        attribution=attribution,
        credit=in_words(visit, program, attribution),
        coupons=found[:COUPONS_SHOWN],
        has_more_coupons=len(found) > COUPONS_SHOWN,
        owners=reads.publisher_names(visit.session, [one.publisher_id for one in found]),
    )


VIEWS = (
    View(method="GET", path="/programs", handler=_list, roles=WHO),
    View(method="GET", path="/programs/{program_id}", handler=_detail, roles=WHO),
)
