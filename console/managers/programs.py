"""Programs: the terms in force in words, and who takes part."""

from typing import Final

from starlette.responses import Response

from commissions import plans
from console import reads, terms
from console.pages import MANAGERS, View, Visit
from network import programs
from tracker import attribution_terms, coupons

COUPONS_SHOWN: Final = 100


def _list(visit: Visit) -> Response:
    found = reads.programs(visit.session, visit.actor)
    return visit.page(
        "managers/programs.html",
        programs=found,
        advertisers=reads.advertiser_names(
            visit.session, {program.advertiser_id for program in found}
        ),
        versions={
            program.id: plans.version_at(visit.session, program.id, visit.now) for program in found
        },
    )


def _detail(visit: Visit) -> Response:
    program = programs.get(visit.session, visit.path["program_id"])
    version = plans.version_at(visit.session, program.id, visit.now)
    found = coupons.page(visit.session, program.id, limit=COUPONS_SHOWN)
    return visit.page(
        "managers/program.html",
        program=program,
        advertisers=reads.advertiser_names(visit.session, {program.advertiser_id}),
        version=version,
        terms=terms.read(version, visit.gettext) if version else None,
        people=reads.user_names(visit.session, [version.published_by] if version else []),
        members=reads.members(visit.session, program.id),
        attribution=attribution_terms.version_at(visit.session, program.id, visit.now),
        coupons=found,
        owners=reads.publisher_names(visit.session, [one.publisher_id for one in found]),
    )


VIEWS = (
    View(method="GET", path="/programs", handler=_list, roles=MANAGERS),
    View(method="GET", path="/programs/{program_id}", handler=_detail, roles=MANAGERS),
)
