"""Settings are read once; a wrong one stops the start and never shows its value."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from kernel import settings
from kernel.settings import Settings, UnknownSettingError

SECRET = "0123456789abcdef0123456789abcdef"


def test_an_unknown_variable_is_refused_by_name_and_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TALLYSTICK_PROT", "hunter2")
    monkeypatch.setenv("TALLYSTICK_BODY_MAX", "hunter2")

    with pytest.raises(UnknownSettingError) as refused:
        settings.load()

    assert str(refused.value) == "unknown setting: TALLYSTICK_BODY_MAX, TALLYSTICK_PROT"


def test_variables_of_other_programs_and_of_the_tests_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TALLYSTICKS_PORT", "1")
    monkeypatch.setenv("TALLYSTICK_REQUIRE_SERVICES", "1")
    monkeypatch.setenv("TALLYSTICK_PORT", "8123")

    assert settings.load().port == 8123


def test_a_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_SECRET", SECRET[:-1])

    with pytest.raises(ValidationError, match="must have at least 32 characters"):
        settings.load()


def test_bug_a_refused_secret_was_shown_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_SECRET", "hunter2")
    monkeypatch.setenv("TALLYSTICK_PORT", "hunter3")

    with pytest.raises(ValidationError) as refused:
        settings.load()

    assert "secret" in str(refused.value)
    assert "port" in str(refused.value)
    assert "hunter" not in str(refused.value)


def test_a_secret_of_32_characters_is_taken_and_never_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TALLYSTICK_SECRET", SECRET)

    found = settings.load()

    assert found.secret is not None
    assert found.secret.get_secret_value() == SECRET
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "65536"), ("PORT", "-1"), ("TOKEN_SECONDS", "3601"), ("WORKER_THREADS", "0")],
)
def test_a_value_out_of_range_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"TALLYSTICK_{name}", value)

    with pytest.raises(ValidationError, match=name.lower()):
        settings.load()


@pytest.mark.parametrize(
    "sizes",
    [
        {"JOURNAL": 2**20},
        {"JOURNAL_SEGMENT": 4 * 2**30},
        {"JOURNAL": 2**20, "JOURNAL_SEGMENT": 2**19, "JOURNAL_RECORD": 2**19},
    ],
)
def test_bug_a_journal_could_be_too_small_to_be_ever_written_to_again(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]
) -> None:
    for name, size in sizes.items():
        monkeypatch.setenv(f"TALLYSTICK_{name}_BYTES_MAX", str(size))
    with pytest.raises(ValidationError, match="must hold a segment and a record") as refused:
        settings.load()
    assert [error["loc"] for error in refused.value.errors()] == [("journal_bytes_max",)]
    monkeypatch.setenv("TALLYSTICK_JOURNAL_BYTES_MAX", str(2**33))
    assert settings.load().journal_bytes_max == 2**33


def test_defaults_need_no_variable() -> None:
    found = settings.load()

    assert found.data_dir == Path("var")
    assert found.secret is None
    assert found.public_url == "http://127.0.0.1:8000"
    assert found.database == f"sqlite:///{Path('var/tallystick.db').absolute()}"
    assert found.proxies == {"127.0.0.1", "::1"}
    assert found.private_feed_hosts == frozenset()


def test_derived_values_follow_what_was_set(tmp_path: Path) -> None:
    found = Settings(
        data_dir=tmp_path,
        base_url="https://net.example/",
        trusted_proxies=" 10.0.0.1, ,10.0.0.2",
        feed_private_hosts="shop.internal",
    )

    assert found.public_url == "https://net.example"
    assert found.database == f"sqlite:///{tmp_path}/tallystick.db"
    assert found.proxies == {"10.0.0.1", "10.0.0.2"}
    assert found.private_feed_hosts == {"shop.internal"}
    assert Settings(trusted_proxies="").proxies == frozenset()
    assert Settings(database_url="postgresql://db/x").database == "postgresql://db/x"


def test_settings_cannot_be_changed_afterwards() -> None:
    found = Settings()

    with pytest.raises(ValidationError):
        found.port = 1  # type: ignore[misc]  # what the test is about

    assert found.port == 8000


def test_every_setting_says_what_it_means() -> None:
    silent = [name for name, field in Settings.model_fields.items() if not field.description]

    assert silent == []
