"""What the fields of reports may hold."""

import re

from babel import Locale

from tracker.fields import COUNTRIES


def test_countries_are_those_that_have_a_name() -> None:
    named = {code for code in map(str, Locale("en").territories) if re.fullmatch("[A-Z]{2}", code)}
    assert named >= COUNTRIES
    # Reserved, exceptional and invented codes; every other one is a country.
    others = "AC CP CQ DG EA EU EZ IC QO TA UN XA XB ZZ"
    assert sorted(named - COUNTRIES) == others.split()
    assert len(COUNTRIES) == 250
    assert {"XK", "TW", "GB", "CN"} <= COUNTRIES
    assert COUNTRIES.isdisjoint({"SU", "YU", "DD", "UK", "BU"})
