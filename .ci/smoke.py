"""One click, one sale, one page; on the second run, that the first sale is still there."""

import base64
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

base, demo_file, run = sys.argv[1:]
demo = json.loads(Path(demo_file).read_text())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args):
        return None


opener = urllib.request.build_opener(_NoRedirect)


def ask(path, data=None, headers=None):
    """(status, headers, body) of one request; a refusal is an answer too."""
    request = urllib.request.Request(base + path, data=data, headers=headers or {})
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def token():
    """The header that makes us a manager."""
    manager = demo["manager"]
    pair = f"{manager['client_id']}:{manager['client_secret']}".encode()
    status, _, body = ask(
        "/oauth/token",
        b"grant_type=client_credentials",
        {"Authorization": "Basic " + base64.b64encode(pair).decode()},
    )
    assert status == 200, (status, body)
    return {"Authorization": "Bearer " + json.loads(body)["access_token"]}


def find(order_id, headers):
    """The order's rows, once its commission is booked."""
    query = urllib.parse.urlencode({"order_id": order_id})
    for _ in range(100):
        status, _, body = ask(f"/v1/conversions?{query}", headers=headers)
        assert status == 200, (status, body)
        rows = json.loads(body)["data"]
        if rows and rows[0]["commission"]:
            return rows
        time.sleep(0.1)
    raise AssertionError(f"{order_id} was not booked within 10 s")


advertiser = next(entry for entry in demo["advertisers"] if entry["currency"] == "GBP")
publisher = demo["publishers"][0]
bearer = token()
if run == "first":
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"
    status, headers, _ = ask(
        f"/c/{advertiser['program']}/{publisher['code']}?s1=smoke", headers={"User-Agent": agent}
    )
    assert status == 302, status
    location = urllib.parse.urlsplit(headers["Location"])
    click_id = urllib.parse.parse_qs(location.query)["ts_click"][0]
    time.sleep(6)  # nobody buys within five seconds; a sale that fast would be held
    order = {
        "token": advertiser["postback_token"],
        "click_id": click_id,
        "order_id": "smoke-1",
        "amount": "40.00",
        "currency": "GBP",
        "country": "GB",
    }
    for expected in (False, True):
        status, _, body = ask("/postback", urllib.parse.urlencode(order).encode())
        assert status == 202, (status, body)
        assert json.loads(body)["duplicate"] is expected, body
    status, _, body = ask(
        "/postback", urllib.parse.urlencode({**order, "amount": "41.00"}).encode()
    )
    assert status == 409, (status, body)
rows = find("smoke-1", bearer)
assert len(rows) == 1, rows
assert rows[0]["amount"] == {"minor": 4000, "currency": "GBP"}, rows
assert rows[0]["publisher"]["code"] == publisher["code"], rows
assert rows[0]["commission"]["minor"] > 0, rows
status, headers, body = ask("/sign-in")
assert status == 200 and b"<form" in body, (status, body[:200])
print(f"smoke: {run} run saw its sale and its page")
