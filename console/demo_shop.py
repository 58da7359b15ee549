"""The demo network's shop: come by a link, buy, and see both tracked, by the tag or by the server.

Only where `demo.json` names the shop. It is the merchant here, so it knows the network as merchants
do: by the tag on its pages and by the postback that it calls over HTTP.
"""

import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from sqlmodel import Session, col, select
from starlette.responses import Response

from commissions import statements
from commissions.statements import StatementLine
from console import forms
from console.pages import View, Visit, redirect
from console.rendering import SECURITY_HEADERS
from kernel.errors import NotFound, Unavailable, invalid
from network.access import Actor
from network.models import Publisher, Role
from tracker import arrivals
from tracker.click_ids import ClickIdError
from tracker.node import click_id_signer

PRICE_MINOR: Final = 4_000
_PRICE: Final = "40.00"
_COOKIE: Final = "ts_clicks"
_ORDER: Final = re.compile(r"JUG-[0-9a-f]{8}")
_COUPON_CHARS_MAX: Final = 64
_CLICKS_SHOWN: Final = 5
_CALL_SECONDS: Final = 10
_REFRESH_SECONDS: Final = 2
_WAYS: Final = frozenset(("tag", "server"))
# The network's tag may run here, which it may on no page of the console.
_HEADERS: Final = {
    "Content-Security-Policy": SECURITY_HEADERS["Content-Security-Policy"]
    + "; script-src 'self'; connect-src 'self'"
}


@dataclass(frozen=True, slots=True)
class Kept:
    """A click that this browser keeps."""

    publisher: str
    at: datetime
    click_id: str


def _shop(visit: Visit) -> dict[str, Any]:
    """What `demo.json` says of the shop; NotFound on a server without the demo network."""
    try:
        text = (visit.context.settings.data_dir / "demo.json").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound("there is no demo network here") from error
    shop = json.loads(text).get("shop")
    if not isinstance(shop, dict):
        raise NotFound("this demo network has no shop")
    return shop


def _clicks(visit: Visit) -> list[str]:
    """The click ids that came with the address or that the tag has kept, oldest first."""
    found = visit.request.cookies.get(_COOKIE, "").split("~")
    found.append(visit.query.get("ts_click", ""))
    return [one for one in dict.fromkeys(found) if one][-_CLICKS_SHOWN:]


def _kept(visit: Visit) -> list[Kept]:
    signer = click_id_signer(visit.context.keys)
    found = []
    for click_id in _clicks(visit):
        try:
            facts = signer.read(click_id)
        except ClickIdError:
            continue
        name = visit.session.exec(
            select(Publisher.name).where(col(Publisher.number) == facts.publisher_number)
        ).first()
        found.append(Kept(name or "", facts.at, click_id))
    return found


def _show(visit: Visit) -> Response:
    shop = _shop(visit)
    response = visit.page(
        "demo/shop.html",
        shop=shop,
        kept=_kept(visit),
        coupon=visit.form.get("coupon", ""),
        price_minor=PRICE_MINOR,
    )
    if "ts_pub" in visit.query and not _clicks(visit):
        # The tag has told of the visit by then, and keeps its click.
        response.headers["Refresh"] = f"{_REFRESH_SECONDS}; url=/demo/shop"
    response.headers.update(_HEADERS)
    return response


def _buy(visit: Visit) -> Response:
    """Take the order; by server, the shop's own server reports it before it answers."""
    shop = _shop(visit)
    way = forms.choice(visit.form, "way", _WAYS) or "server"
    coupon = forms.text(visit.form, "coupon")
    if len(coupon) > _COUPON_CHARS_MAX or not coupon.isprintable():
        raise invalid("coupon", "length", f"must be at most {_COUPON_CHARS_MAX} characters")
    order_id = visit.form.get("order") or f"JUG-{secrets.token_hex(4)}"
    if not _ORDER.fullmatch(order_id):
        raise invalid("order", "format", "is no order of this shop")
    if way == "server":
        _call(visit, shop, _order(shop, order_id, coupon) | _click_fields(_clicks(visit)))
    query = {"way": way, "coupon": coupon} if coupon else {"way": way}
    return redirect(f"/demo/shop/orders/{order_id}", **query)


def _order(shop: Mapping[str, Any], order_id: str, coupon: str) -> dict[str, str]:
    order = {"order_id": order_id, "amount": _PRICE, "currency": shop["currency"]}
    return order | {"coupon": coupon} if coupon else order


def _click_fields(clicks: list[str]) -> dict[str, str]:
    if not clicks:
        return {}
    earlier = {"click_ids": ",".join(clicks[:-1])} if len(clicks) > 1 else {}
    return {"click_id": clicks[-1], **earlier}


def _call(visit: Visit, shop: Mapping[str, Any], order: Mapping[str, str]) -> None:
    """`POST /postback`, as a shop's server calls it."""
    settings = visit.context.settings
    host = settings.host if settings.host not in ("0.0.0.0", "::", "") else "127.0.0.1"  # noqa: S104 - compared
    request = urllib.request.Request(
        f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/postback",
        data=urlencode({"token": shop["postback_token"], **order}).encode(),
    )
    try:
        with urllib.request.urlopen(request, timeout=_CALL_SECONDS) as answer:  # noqa: S310 - our own address
            answer.read()
    except urllib.error.HTTPError as error:
        problem = json.loads(error.read() or b"{}")
        raise invalid("order", "postback", str(problem.get("detail", error.code))) from error
    except OSError as error:
        raise Unavailable("the shop's server did not reach the network") from error


def _ordered(visit: Visit) -> Response:
    shop = _shop(visit)
    order_id = visit.path["order_id"]
    coupon = visit.query.get("coupon", "")[:_COUPON_CHARS_MAX]
    if not _ORDER.fullmatch(order_id):
        raise NotFound("no such order", kind="order")
    line = _line(visit.session, shop, order_id)
    way = forms.choice(visit.query, "way", _WAYS) or "server"
    response = visit.page(
        "demo/order.html",
        shop=shop,
        order_id=order_id,
        order=_order(shop, order_id, coupon),
        coupon=coupon,
        way=way,
        line=line,
        publisher=_publisher(visit.session, line),
        arrivals=arrivals.of_conversion(visit.session, line.conversion.id, limit=10)
        if line
        else [],
        price_minor=PRICE_MINOR,
    )
    if line is None or line.attribution is None:
        response.headers["Refresh"] = str(_REFRESH_SECONDS)
    response.headers.update(_HEADERS)
    return response


def _line(session: Session, shop: Mapping[str, Any], order_id: str) -> StatementLine | None:
    # Whoever knows the order's random name made it; the shop reads its own orders as its party.
    merchant = Actor(id="demo", role=Role.ADVERTISER, party_id=shop["id"], name=shop["name"])
    filters = statements.Filters(program_id=shop["program_id"], order_id=order_id)
    found = statements.newest(session, merchant, filters=filters, limit=1)
    return found[0] if found else None


def _publisher(session: Session, line: StatementLine | None) -> str:
    if line is None or line.attribution is None or line.attribution.publisher_id is None:
        return ""
    query = select(Publisher.name).where(Publisher.id == line.attribution.publisher_id)
    return session.exec(query).one()


VIEWS = (
    View(method="GET", path="/demo/shop", handler=_show, public=True),
    View(
        method="POST",
        path="/demo/shop",
        handler=_buy,
        public=True,
        session=False,
    ),
    View(method="GET", path="/demo/shop/orders/{order_id}", handler=_ordered, public=True),
)
