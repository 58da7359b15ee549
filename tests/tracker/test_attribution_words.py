from typing import Any

import pytest
from sqlalchemy.engine import Engine

from kernel import clock
from kernel.database import unit_of_work
from kernel.i18n import LANGUAGES, catalogue
from tests import make
from tracker import attribution_words as words
from tracker.clicks import Unbillable
from tracker.models import Attribution, AttributionShare, AttributionSuperseded
from tracker.rules import AttributionReason

NOW = clock.now()
TRACE = {
    "model": "linear",
    "window_hours": 720,
    "rules": ["r"],
    "tried": [["coupon", "not_a_member"]],
    "touches": [
        {"id": "junk", "reason": "click_id_malformed"},
        {"id": "c1", "publisher": "pub_a", "at": "2026-03-01T00:00:00.000Z", "reason": "linear"},
        {"id": "c2", "publisher": "pub_b", "at": "2026-03-02T00:00:00.000Z", "reason": "linear"},
    ],
}


def test_every_reason_has_a_sentence_in_every_language() -> None:
    codes = [*AttributionReason, *Unbillable]
    assert [code for code in codes if code not in words.SENTENCES] == []
    chinese = catalogue("tracker", "zh-Hans")
    assert [one for one in words.every_sentence() if chinese.gettext(one) == one] == []
    assert words.sentence("brand_new", LANGUAGES[0]) == "Brand new"


@pytest.fixture
def decided(sqlite_engine: Engine) -> Any:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        for name in ("pub_a", "pub_b"):
            make.publisher(session, member_of=program, id=name, name=name.upper())
        conversion = make.conversion(session, program)
        one = Attribution(
            conversion_id=conversion.id,
            publisher_id="pub_b",
            source="click",
            reason="linear",
            trace=TRACE | {"note": "seen"},
            decided_at=NOW,
        )
        for at, name in enumerate(("pub_a", "pub_b")):
            session.add(
                AttributionShare(
                    conversion_id=conversion.id,
                    position=at,
                    publisher_id=name,
                    numerator=1,
                    denominator=2,
                    role=("initiator", "converter")[at],
                    click_id=f"c{at + 1}",
                )
            )
        session.add(
            AttributionSuperseded(
                conversion_id=conversion.id,
                reason="no_click_id",
                decided_at=make.NOW,
                superseded_at=make.NOW,
            )
        )
        session.flush()
        yield session, one


def test_the_network_reads_all_of_it(decided: Any) -> None:
    found = words.facts(*decided, reader=None)
    assert words.publishers_in(found) == {"pub_a", "pub_b"}
    assert words.tell(found, {"pub_a": "Anna", "pub_b": "Bo"}, "en") == [
        "Until 2026-03-10T12:00:00.000Z the order was nobody's. The advertiser reported no click.",
        "Every click within the attribution window has an equal part.",
        "Note: seen",
        "Reported as a click, junk: What the advertiser reported is no click id.",
        (
            "2026-03-01T00:00:00.000Z, click of Anna: "
            "Every click within the attribution window has an equal part."
        ),
        (
            "2026-03-02T00:00:00.000Z, click of Bo: "
            "Every click within the attribution window has an equal part."
        ),
        "Anna has 1/2 of the order, as who began it.",
        "Bo has 1/2 of the order, as who completed it.",
        "The commission is paid to Bo, whose part is the greatest.",
    ]


@pytest.mark.parametrize(("reader", "other"), [("pub_a", "pub_b"), ("pub_b", "pub_a")])
def test_a_publisher_reads_nothing_of_another(decided: Any, reader: str, other: str) -> None:
    found = words.facts(*decided, reader=reader)
    assert words.publishers_in(found) == {reader}
    said = " ".join(words.tell(found, {"pub_a": "Anna", "pub_b": "Bo"}, "en"))
    foreign = {"pub_a": ("pub_a", "Anna", "c1"), "pub_b": ("pub_b", "Bo ", "c2")}[other]
    assert [mark for mark in foreign if mark in f"{found} {said}"] == []
    assert "another publisher" in said
    assert ("seen" in said) is (reader == "pub_b")
