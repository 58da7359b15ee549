from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel import keys
from kernel.database import unit_of_work
from kernel.settings import Settings
from network.models import Program, SigningSecret
from server import demo_shop
from server.tables import metadata
from tests import make
from tests.conftest import NOW
from tracker.models import AttributionTerms, Coupon, Link, OrderUpload

FROM = datetime(2009, 1, 1, tzinfo=UTC)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with unit_of_work(engine) as opened:
        for code in demo_shop.MEMBERS:
            make.publisher(opened, code=code, name=code)
        yield opened


def ensure(session: Session, settings: Settings) -> Program:
    return demo_shop.ensure(session, keys.load(settings), settings, terms_from=FROM, now=NOW)


def counts(session: Session) -> dict[str, int]:
    tables = sorted(set(metadata.tables) - {"click"})
    return {
        name: session.execute(
            sa.select(sa.func.count()).select_from(metadata.tables[name])
        ).scalar_one()
        for name in tables
    }


def test_every_page_of_the_console_gets_something_to_show(
    session: Session, settings: Settings
) -> None:
    program = ensure(session, settings)

    assert program.landing_url == "http://127.0.0.1:8000/demo/shop"
    assert program.allowed_domains == ["127.0.0.1", "localhost"]
    assert program.tag_orders == "pending"
    [terms] = session.exec(select(AttributionTerms)).all()
    assert terms.document["model"] == "position"
    assert sorted((one.code, one.effect) for one in session.exec(select(Coupon))) == [
        ("COVE10", "exclusive"),
        ("STAFF", "suppressed"),
    ]
    assert sorted(one.code for one in session.exec(select(Link))) == [
        "slow-home-jug",
        "teatime-jug",
    ]
    assert len(session.exec(select(SigningSecret)).all()) == 1
    [upload] = session.exec(select(OrderUpload)).all()
    assert (upload.file_name, upload.rows_total) == ("demo-orders.csv", 4)


def test_a_second_load_changes_nothing(session: Session, settings: Settings) -> None:
    ensure(session, settings)
    before = counts(session)

    ensure(session, settings)

    assert counts(session) == before


def test_the_shop_follows_the_server_to_another_port(session: Session, settings: Settings) -> None:
    ensure(session, settings)

    program = ensure(
        session, Settings(data_dir=settings.data_dir, secret=settings.secret, port=9000)
    )

    assert program.landing_url == "http://127.0.0.1:9000/demo/shop"
    assert program.allowed_domains == ["127.0.0.1", "localhost"]


def test_a_port_that_is_not_chosen_yet_is_no_part_of_the_address(
    session: Session, settings: Settings
) -> None:
    program = ensure(session, Settings(data_dir=settings.data_dir, secret=settings.secret, port=0))

    assert program.landing_url == "http://127.0.0.1/demo/shop"


def test_a_public_shop_is_only_on_its_own_host(session: Session, settings: Settings) -> None:
    public = Settings(
        data_dir=settings.data_dir, secret=settings.secret, base_url="https://demo.example"
    )

    program = ensure(session, public)

    assert program.landing_url == "https://demo.example/demo/shop"
    assert program.allowed_domains == ["demo.example"]
