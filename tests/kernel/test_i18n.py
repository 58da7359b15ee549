"""Languages: what a visitor asks for, and sentences that fall back to English."""

import pytest

from kernel import i18n


@pytest.mark.parametrize(
    ("wishes", "language"),
    [
        ((), "en"),
        ((None, ""), "en"),
        (("zh-Hans", "en"), "zh-Hans"),
        (("en", "zh-CN"), "en"),
        ((None, "zh-CN,zh;q=0.9,en;q=0.8"), "zh-Hans"),
        ((None, "fr-FR,fr;q=0.9,zh;q=0.5,en;q=0.1"), "zh-Hans"),
        ((None, "EN-us"), "en"),
        (("<script>", "de,fr"), "en"),
    ],
)
def test_the_first_language_we_speak_is_chosen(
    wishes: tuple[str | None, ...], language: str
) -> None:
    assert i18n.choose(*wishes) == language


def test_a_sentence_is_said_in_the_language() -> None:
    assert i18n.translate("tracker", "zh-Hans", "This link leads nowhere") == "此链接无效"
    assert i18n.translate("tracker", "en", "This link leads nowhere") == "This link leads nowhere"


def test_a_sentence_without_translation_stays_english_and_is_filled_in() -> None:
    for language in i18n.LANGUAGES:
        said = i18n.translate("tracker", language, "Nobody wrote {count} of these", count=3)
        assert said == "Nobody wrote 3 of these"


def test_a_package_without_catalogue_speaks_english() -> None:
    assert i18n.translate("kernel", "zh-Hans", "Not found") == "Not found"


def test_a_catalogue_is_parsed_once() -> None:
    assert i18n.catalogue("tracker", "zh-Hans") is i18n.catalogue("tracker", "zh-Hans")
