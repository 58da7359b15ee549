"""Payout runs: propose, look, approve with a second person, export for the bank, settle."""

from starlette.responses import Response

from commissions import payouts
from commissions.models import Payout
from console import forms, reads
from console.pages import MANAGERS, View, Visit, redirect
from console.rendering import SECURITY_HEADERS

RUNS_SHOWN = 50
PAYOUTS_SHOWN = 1_000


def _list(visit: Visit) -> Response:
    runs = payouts.runs(visit.session, limit=RUNS_SHOWN)
    return visit.page(
        "managers/payouts.html",
        runs=runs,
        totals={run.id: _totals(payouts.payouts_of(visit.session, run.id)) for run in runs},
        people=reads.user_names(visit.session, [run.proposed_by for run in runs]),
        minimum_minor=visit.form.get("minimum_minor", ""),
    )


def _totals(rows: list[Payout]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for row in rows:
        totals[row.currency] = totals.get(row.currency, 0) + row.amount_minor
    return dict(sorted(totals.items()))


def _propose(visit: Visit) -> Response:
    minimum_minor = forms.minor(visit.form, "minimum_minor")
    run = payouts.propose(
        visit.session, actor=visit.actor.id, now=visit.now, minimum_minor=minimum_minor
    )
    several = reads.has_several_managers(visit.session)
    done = "run_proposed" if several else "run_proposed_alone"
    return redirect(f"/payouts/{run.id}", done=done)


def _detail(visit: Visit) -> Response:
    run = payouts.get(visit.session, visit.path["run_id"])
    rows = payouts.payouts_of(visit.session, run.id)
    decisions = payouts.decisions(visit.session, run.id)
    publisher_ids = [row.publisher_id for row in rows]
    publisher_ids += [str(entry.get("publisher_id", "")) for entry in run.skipped]
    return visit.page(
        "managers/payout_run.html",
        run=run,
        payouts=rows[:PAYOUTS_SHOWN],
        not_shown=max(0, len(rows) - PAYOUTS_SHOWN),
        totals=_totals(rows),
        decisions=decisions,
        publishers=reads.publisher_names(visit.session, publisher_ids),
        people=reads.user_names(
            visit.session, [run.proposed_by, *(decision.actor for decision in decisions)]
        ),
        is_own_proposal=run.proposed_by == visit.actor.id
        and reads.has_several_managers(visit.session),
        form=visit.form,
    )


def _approve(visit: Visit) -> Response:
    run = payouts.get(visit.session, visit.path["run_id"])
    # Where one person runs the network alone there is nobody else to ask.
    payouts.approve(
        visit.session,
        run.id,
        actor=visit.actor.id,
        now=visit.now,
        four_eyes=reads.has_several_managers(visit.session),
    )
    return redirect(f"/payouts/{run.id}", done="run_approved")


def _export(visit: Visit) -> Response:
    run = payouts.get(visit.session, visit.path["run_id"])
    text = payouts.export_csv(visit.session, run.id, actor=visit.actor.id, now=visit.now)
    return Response(
        text,
        media_type="text/csv",
        headers={
            **SECURITY_HEADERS,
            "Content-Disposition": f'attachment; filename="tallystick-{run.id}.csv"',
        },
    )


def _settle(visit: Visit) -> Response:
    run = payouts.get(visit.session, visit.path["run_id"])
    payouts.settle(
        visit.session,
        run.id,
        reference=forms.text(visit.form, "reference"),
        actor=visit.actor.id,
        now=visit.now,
    )
    return redirect(f"/payouts/{run.id}", done="run_settled")


def _cancel(visit: Visit) -> Response:
    run = payouts.get(visit.session, visit.path["run_id"])
    payouts.cancel(
        visit.session,
        run.id,
        actor=visit.actor.id,
        note=forms.text(visit.form, "note"),
        now=visit.now,
    )
    return redirect(f"/payouts/{run.id}", done="run_cancelled")


VIEWS = (
    View(method="GET", path="/payouts", handler=_list, roles=MANAGERS),
    View(method="POST", path="/payouts", handler=_propose, roles=MANAGERS, retry=_list),
    View(method="GET", path="/payouts/{run_id}", handler=_detail, roles=MANAGERS),
    *(
        View(
            method="POST",
            path=f"/payouts/{{run_id}}/{verb}",
            handler=handler,
            roles=MANAGERS,
            retry=_detail,
        )
        for verb, handler in (
            ("approve", _approve),
            ("export", _export),
            ("settle", _settle),
            ("cancel", _cancel),
        )
    ),
)
