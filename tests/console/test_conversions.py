"""The page of an order: who brought it is said once, with every click and what became of it."""

import re
from html import unescape

import pytest
from sqlmodel import Session

from commissions import accruals
from kernel import clock
from kernel.database import unit_of_work
from tests import make
from tests.console.world import Browser, World
from tracker.models import Attribution, AttributionShare, AttributionSuperseded, Conversion

AT = "2026-11-0{}T23:30:0{}.000Z"


def decided(session: Session, world: World, *, source: str = "click") -> Conversion:
    """An order of three clicks, of which the last but one decides; one id is unreadable."""
    order = make.conversion(session, world.program, order_id=f"T-{source}", decided=False)
    other = make.publisher(session, member_of=world.program, name="Rival", id="pub_rival")
    touches = [
        {"id": "junk<b>", "reason": "click_id_malformed"},
        {"id": "c1", "publisher": other.id, "at": AT.format(1, 1), "reason": "outside_window"},
        {
            "id": "c2",
            "publisher": world.publisher.id,
            "at": AT.format(2, 2),
            "reason": "last_click",
        },
        {"id": "c3", "publisher": other.id, "at": AT.format(3, 3), "reason": "stand_down"},
    ]
    session.add(
        Attribution(
            conversion_id=order.id,
            publisher_id=world.publisher.id,
            source=source,
            reason="last_click",
            click_id="c2",
            clicked_at=make.NOW,
            trace={
                "model": "last_click",
                "window_hours": 72,
                "tried": [["coupon", "not_a_member"]],
                "touches": touches,
                "touches_left_out": 4,
                "note": "checked by phone",
            },
            decided_at=make.NOW,
        )
    )
    session.add(
        AttributionSuperseded(
            conversion_id=order.id,
            reason="no_click_id",
            decided_at=make.NOW,
            superseded_at=make.NOW,
        )
    )
    session.flush()
    accruals.accrue(session, order.id, hold_reason=None, now=clock.now())
    return order


@pytest.fixture
def order(world: World) -> Conversion:
    with unit_of_work(world.engine) as session:
        return decided(session, world)


def card(page: str) -> str:
    found = re.search(
        r'<section class="card" aria-labelledby="decision">.*?</section>', page, re.DOTALL
    )
    assert found is not None
    return found[0]


def text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def test_a_manager_reads_every_click_with_its_reason(
    browser: Browser, world: World, order: Conversion
) -> None:
    browser.sign_in("manager")

    page = browser.open(f"/conversions/{order.id}").text

    said = text(card(page))
    assert world.publisher.name in unescape(said)
    for sentence in (
        "Last click · clicks up to 3 days before the order",
        "The last click before the order decides, and it was this publisher's.",
        "Note: checked by phone",
        "Nobody's until 2026-03-10 13:00 CET : The advertiser reported no click.",
        "The owner of the coupon: The publisher was not an approved member of the program.",
        "No time: unreadable junk<b>",
        # In Berlin it is the next day already.
        "2026-11-02 00:30:01 CET c1 Rival The click is older than the program's attribution",
        "2026-11-03 00:30:02 CET c2",
        "2026-11-04 00:30:03 CET c3 Rival The click came at the checkout, after another",
        "4 older clicks are not listed.",
    ):
        assert sentence in said, sentence
    assert said.count("Decides") == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_attribution_is_said_once_and_without_raw_times(
    browser: Browser, order: Conversion, language: str
) -> None:
    browser.sign_in("manager")

    page = browser.open(f"/conversions/{order.id}", **{"accept-language": language}).text

    sentence = {"en": "The last click before the order decides", "zh": "下单前的最后一次点击"}
    assert text(page).count(sentence[language]) == 1
    assert re.findall(r"\d{4}-\d\d-\d\dT\d\d:", text(page)) == []


def test_a_publisher_learns_that_others_were_there_and_not_who(
    browser: Browser, order: Conversion
) -> None:
    browser.sign_in("publisher")

    page = browser.open(f"/conversions/{order.id}").text

    said = text(card(page))
    assert "another publisher The click came at the checkout" in said
    assert "c2" in said
    for foreign in ("Rival", "pub_rival", "c1", "c3", "junk"):
        assert foreign not in said


def test_a_shared_order_shows_every_part(browser: Browser, world: World) -> None:
    with unit_of_work(world.engine) as session:
        order = decided(session, world)
        for place, (who, role) in enumerate(
            (("pub_rival", "initiator"), (world.publisher.id, "converter"))
        ):
            session.add(
                AttributionShare(
                    conversion_id=order.id,
                    position=place,
                    publisher_id=who,
                    numerator=1 + place,
                    denominator=3,
                    role=role,
                    click_id="c2",
                )
            )
    browser.sign_in("manager")

    said = text(card(browser.open(f"/conversions/{order.id}").text))

    assert "Rival 1/3 began it" in said
    assert "2/3 completed it" in said
    assert "Has a part" in said
    assert "Decides" not in said


def test_nobody_s_order_says_why_once(browser: Browser, world: World) -> None:
    with unit_of_work(world.engine) as session:
        order = make.conversion(session, world.program, order_id="N-1", decided=False)
        session.add(
            Attribution(
                conversion_id=order.id,
                source="none",
                reason="outside_window",
                trace={
                    "touches": [
                        {
                            "id": "c9",
                            "publisher": world.publisher.id,
                            "at": AT.format(1, 1),
                            "reason": "outside_window",
                        }
                    ]
                },
                decided_at=make.NOW,
            )
        )
    browser.sign_in("manager")

    page = browser.open(f"/conversions/{order.id}").text

    said = text(card(page))
    assert said.startswith("Who brought the order Nobody The click is older")
    assert "Decides" not in said
    assert "No commission belongs to this order." in page


def test_an_order_that_is_not_decided_yet_says_so(browser: Browser, world: World) -> None:
    with unit_of_work(world.engine) as session:
        order = make.conversion(session, world.program, order_id="N-2", decided=False)
    browser.sign_in("manager")

    said = text(card(browser.open(f"/conversions/{order.id}").text))

    assert said == "Who brought the order Not decided yet. It takes seconds after the report."


def test_the_reason_of_a_commission_is_said_once(browser: Browser, world: World) -> None:
    browser.sign_in("manager")

    page = text(browser.open(f"/conversions/{world.held.id}").text)

    why = page[page.index("How the commission came about") : page.index("Bookings")]
    assert why.count("The order is on hold until a manager has looked at it.") == 1
    assert "fraud_suspected" not in page
