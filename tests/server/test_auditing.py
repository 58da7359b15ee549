from datetime import UTC, datetime

import pytest
from sqlalchemy.engine import Engine

from commissions import accruals
from kernel.database import unit_of_work
from kernel.settings import Settings
from server import audit, auditing
from server.audit import Scope
from tests import make
from tests.commissions.test_replay_checks import falsify, unlock
from tests.make import NOW


def test_options_say_what_is_replayed(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session, code="shop")

    found = auditing.scope(
        sqlite_engine, only_replay=True, code="shop", first="2026-03-01", last="2026-03-31"
    )

    begins, ends = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    assert found == Scope(only_replay=True, program_id=program.id, period=(begins, ends))
    nothing = {"code": None, "first": None, "last": None}
    assert auditing.scope(sqlite_engine, only_replay=False, **nothing) == Scope()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only_replay": False, "code": "shop"}, "need --replay"),
        ({"code": "nobody"}, "--program: there is no program nobody"),
        ({"first": "March"}, "--from: 'March' is not a day such as 2026-03-01"),
        ({"last": "9999-12-31"}, "--to: '9999-12-31' is not a day such as 2026-03-01"),
        ({"first": "2026-03-02", "last": "2026-03-01"}, "--from must not be after --to"),
    ],
)
def test_options_that_cannot_be_are_refused(
    sqlite_engine: Engine, options: dict[str, str], words: str
) -> None:
    asked = {"only_replay": True, "code": None, "first": None, "last": None} | options
    with pytest.raises(ValueError, match=words):
        auditing.scope(sqlite_engine, **asked)  # type: ignore[arg-type]


def test_what_is_broken_is_printed_and_progress_is_apart_from_it(
    sqlite_engine: Engine, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        make.plan(session, program)
        sale = make.conversion(session, program, make.publisher(session))
        accruals.accrue(session, sale.id, hold_reason=None, now=NOW)
    scope = Scope(only_replay=True)
    sound = auditing.run(sqlite_engine, settings, scope, processes=1), capsys.readouterr()
    with unit_of_work(sqlite_engine) as session:
        unlock(session, "booking")
        falsify(session, sale.id)

    broken = auditing.run(sqlite_engine, settings, scope, processes=1), capsys.readouterr()

    rule = audit.INVARIANTS[3]
    assert (sound[0], sound[1].out) == (True, f"ok 3 {rule}\n")
    assert "orders: 1 of 1" in sound[1].err
    assert broken[0] is False
    assert broken[1].out == (
        f"BROKEN 3 ({rule}): conversion {sale.id}: "
        "a replay of its plan gives 1000, booked is 1001\n"
    )
