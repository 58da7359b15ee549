from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import Session

from network import programs, publishers
from network.models import Program, Publisher
from tests import make
from tracker.models import Attribution, Click, Conversion

CLICKED_AT = datetime(2026, 3, 10, 11, 0, tzinfo=UTC)
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/141.0.0.0 Safari/537.36"
)


@dataclass(frozen=True)
class Network:
    """A program, a publisher, and the orders the publisher brought."""

    session: Session
    program: Program
    publisher: Publisher
    ids: dict[str, str] = field(default_factory=dict)

    def click(self, click_id: str = "clk", **changes: Any) -> Click:
        at = changes.get("at", CLICKED_AT)
        self.ids[click_id] = make.click_id(at, click_id)
        facts: dict[str, Any] = {
            "id": self.ids[click_id],
            "at": at,
            "program_id": self.program.id,
            "publisher_id": self.publisher.id,
            "visitor_key": "visitor",
            "user_agent": CHROME,
            "agent_class": "browser",
            "sec_fetch_dest": "document",
            "country": "DE",
            "sub_ids": {},
            "parameters": {},
        }
        return make.keep_click(self.session, Click(**(facts | changes)))

    def order(
        self,
        conversion_id: str = "cnv",
        *,
        click_id: str | None = "clk",
        seconds: float = 900,
        attributed: bool = True,
        **changes: Any,
    ) -> str:
        occurred_at = CLICKED_AT + timedelta(seconds=seconds)
        facts: dict[str, Any] = {
            "id": conversion_id,
            "program_id": self.program.id,
            "order_id": conversion_id,
            "event": "sale",
            "occurred_at": occurred_at,
            "received_at": occurred_at,
            "currency": "EUR",
            "amount_minor": 10_000,
            "country": "DE",
            "click_id": self.ids.get(click_id or "", click_id),
            "content_hash": "hash",
            "channel": "postback",
        }
        self.session.add(Conversion(**(facts | changes)))
        self.session.flush()
        if attributed:
            self.attribute(conversion_id, click_id)
        return conversion_id

    def attribute(self, conversion_id: str, click_id: str | None) -> None:
        self.session.add(
            Attribution(
                conversion_id=conversion_id,
                publisher_id=self.publisher.id if click_id else None,
                click_id=self.ids.get(click_id or "", click_id),
                clicked_at=CLICKED_AT if click_id else None,
                source="click" if click_id else "none",
                reason="last_click" if click_id else "no_click",
                decided_at=CLICKED_AT,
            )
        )
        self.session.flush()


@pytest.fixture
def network(now: datetime) -> Callable[[Session], Network]:
    def made(session: Session) -> Network:
        advertiser = programs.add_advertiser(session, name="Shop", now=now)
        program = programs.add(
            session,
            advertiser_id=advertiser.id,
            code="shop",
            name="Shop",
            currency="EUR",
            landing_url="https://shop.example/",
            now=now,
        )
        publisher = publishers.add(session, code="blog", name="Blog", now=now)
        return Network(session, program, publisher)

    return made
