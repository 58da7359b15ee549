"""English in the code, other languages in `.po` catalogues beside the package that speaks.

A package keeps `locale/<language>.po`; msgids are the English sentences. Catalogues are parsed
once at first use, so there is no compiled file to forget.
"""

import gettext
import importlib
from functools import cache
from io import BytesIO
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

DEFAULT = "en"
LANGUAGES = ("en", "zh-Hans")


def choose(*wishes: str | None) -> str:
    """The first of our languages that a cookie value or an Accept-Language header asks for."""
    for wish in wishes:
        for part in (wish or "").split(","):
            tag = part.split(";")[0].strip().lower()
            if tag.startswith("zh"):
                return "zh-Hans"
            if tag.startswith("en"):
                return "en"
    return DEFAULT


@cache
def catalogue(package: str, language: str) -> gettext.NullTranslations:
    """The messages of a package in a language; English, and what is missing, stays as written."""
    module_file = importlib.import_module(package).__file__
    path = Path(module_file or ".").parent / "locale" / f"{language}.po"
    if language == DEFAULT or not path.exists():
        return gettext.NullTranslations()
    with path.open("rb") as file:
        messages = read_po(file)
    compiled = BytesIO()
    write_mo(compiled, messages)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def translate(package: str, language: str, message: str, **values: object) -> str:
    """The sentence in a language, with its `{names}` filled in."""
    return catalogue(package, language).gettext(message).format(**values)
