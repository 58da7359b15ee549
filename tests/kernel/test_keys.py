"""One secret, made once and kept from others, and a key of its own for each purpose."""

import subprocess
import sys
from pathlib import Path

import pytest

from kernel import keys
from kernel.keys import Keys, SecretFileError
from kernel.settings import Settings

STARTER = """
import sys
from pathlib import Path
from kernel.keys import load
from kernel.settings import Settings
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    print(load(Settings(data_dir=Path(sys.argv[1]) / str(number))).derive("x").hex())
"""


def settings_in(folder: Path) -> Settings:
    return Settings(data_dir=folder)


def test_the_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    first = keys.load(settings_in(tmp_path / "var"))
    second = keys.load(settings_in(tmp_path / "var"))

    assert first == second
    assert len(first.master) == 64
    assert (tmp_path / "var" / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["secret"]


def test_two_installations_have_two_secrets(tmp_path: Path) -> None:
    assert keys.load(settings_in(tmp_path / "a")) != keys.load(settings_in(tmp_path / "b"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_secret_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text("s" * 64)
    path.chmod(mode)

    with pytest.raises(SecretFileError, match="readable by its owner only"):
        keys.load(settings_in(tmp_path))

    assert path.read_text() == "s" * 64


@pytest.mark.parametrize("content", ["", "s" * 31, " " * 64, "s" * 31 + "\n"])
def test_a_secret_that_is_too_short_is_refused_and_not_replaced(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(SecretFileError, match="less than 32 characters") as refused:
        keys.load(settings_in(tmp_path))

    assert path.read_text() == content
    assert "sss" not in str(refused.value)


def test_bug_a_process_read_the_secret_that_another_was_still_writing(tmp_path: Path) -> None:
    starting = [
        subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-c", STARTER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in starting:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in starting:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    (one, one_errors), (other, other_errors) = (
        process.communicate(timeout=20) for process in starting
    )

    assert (one_errors, other_errors) == ("", "")
    assert one == other
    assert len(one.split()) == 50


def test_the_setting_wins_over_the_file(tmp_path: Path) -> None:
    found = keys.load(Settings(data_dir=tmp_path, secret="s" * 32))

    assert found.master == b"s" * 32
    assert list(tmp_path.iterdir()) == []


def test_each_purpose_and_each_secret_has_a_key_of_its_own() -> None:
    one, other = Keys(b"a" * 32), Keys(b"b" * 32)

    derived = {one.derive("clicks"), one.derive("orders"), other.derive("clicks")}

    assert len(derived) == 3
    assert {len(key) for key in derived} == {32}
    assert one.derive("clicks") == Keys(b"a" * 32).derive("clicks")


def test_derived_keys_stay_the_same_for_ever() -> None:
    # Written down: click ids and conversion ids in the field depend on it.
    assert (
        Keys(b"a" * 32).derive("clicks").hex()
        == "3c174252e913ca62cce8c0df9c1eb5605161af1aca38f431a019eadb13d7cce1"
    )


def test_signatures_are_deterministic() -> None:
    one, other = (Keys(b"a" * 32).signing_key("receipt-1") for _ in range(2))

    assert one.sign(b"x") == other.sign(b"x")
