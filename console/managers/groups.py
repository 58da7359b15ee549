"""Groups of publishers: make and rename them, and say who is in them from when on."""

from starlette.responses import Response

from console import forms, reads
from console.pages import MANAGERS, View, Visit, redirect
from network import groups, programs
from network.models import PublisherGroup

GROUPS_SHOWN = 100
CHANGES_SHOWN = 200
_ZONE = "UTC"


def _list(visit: Visit) -> Response:
    found = groups.page(visit.session, limit=GROUPS_SHOWN)
    offered = reads.programs(visit.session, visit.actor)
    return visit.page(
        "managers/groups.html",
        groups=found,
        counts={one.id: len(groups.members(visit.session, one, at=visit.now)) for one in found},
        programs=offered,
        program_names={one.id: one.name for one in offered},
        form=visit.form,
    )


def _put(visit: Visit) -> Response:
    program_id = forms.text(visit.form, "program")
    code = forms.text(visit.form, "code")
    groups.put(
        visit.session,
        code,
        name=forms.text(visit.form, "name"),
        program_id=programs.get(visit.session, program_id).id if program_id else None,
        actor=str(visit.actor),
        now=visit.now,
    )
    return redirect(f"/groups/{code}", done="group_kept")


def _detail(visit: Visit) -> Response:
    group = _group(visit)
    members = groups.members(visit.session, group, at=visit.now)
    changes = groups.newest_changes(visit.session, group, limit=CHANGES_SHOWN)
    program = programs.get(visit.session, group.program_id) if group.program_id else None
    return visit.page(
        "managers/group.html",
        group=group,
        program=program,
        members=members,
        changes=changes,
        publishers=reads.publisher_names(visit.session, [one.publisher_id for one in changes]),
        people=reads.user_names(visit.session, [one.actor for one in changes]),
        codes=visit.form.get("publishers", "\n".join(one.code for one in members)),
        form=visit.form,
    )


def _set_members(visit: Visit) -> Response:
    group = _group(visit)
    named = [line.strip() for line in visit.form.get("publishers", "").splitlines()]
    groups.set_members(
        visit.session,
        group,
        [one for one in named if one],
        at=forms.instant(visit.form, "from", zone=_ZONE) or visit.now,
        members_max=visit.context.settings.group_members_max,
        actor=str(visit.actor),
        now=visit.now,
    )
    return redirect(f"/groups/{group.code}", done="members_kept")


def _group(visit: Visit) -> PublisherGroup:
    return groups.find(visit.session, visit.path["code"])


VIEWS = (
    View(method="GET", path="/groups", handler=_list, roles=MANAGERS),
    View(method="POST", path="/groups", handler=_put, roles=MANAGERS, retry=_list),
    View(method="GET", path="/groups/{code}", handler=_detail, roles=MANAGERS),
    View(
        method="POST",
        path="/groups/{code}/members",
        handler=_set_members,
        roles=MANAGERS,
        retry=_detail,
    ),
)
