import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kernel import signed_notes
from kernel.signed_notes import NoteError

# The example of the specification.
KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n\N{EM DASH} example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)


def signed(text: str, name: str = "log.example") -> tuple[str, str]:
    """(note, verifier key) of a signer made for the test."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    raw = b"\x01" + private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    key_id = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    signature = base64.b64encode(key_id + private.sign(text.encode())).decode()
    key = f"{name}+{key_id.hex()}+{base64.b64encode(raw).decode()}"
    return f"{text}\n\N{EM DASH} {name} {signature}\n", key


def test_the_example_of_the_specification_is_signed() -> None:
    assert signed_notes.is_signed(NOTE, signed_notes.read_key(KEY))


def test_another_text_or_another_signer_is_not_signed() -> None:
    key = signed_notes.read_key(KEY)
    assert not signed_notes.is_signed(NOTE.replace("example message", "other message"), key)
    note, own = signed("12\nroot\n")
    assert signed_notes.is_signed(note, signed_notes.read_key(own))
    assert not signed_notes.is_signed(note, key)


def test_a_note_of_several_signers_is_signed_by_each() -> None:
    text = "origin\n7\n"
    (first, one), (second, two) = signed(text, "a"), signed(text, "b")
    both = first + second.rpartition("\n\n")[2]
    assert signed_notes.is_signed(both, signed_notes.read_key(one))
    assert signed_notes.is_signed(both, signed_notes.read_key(two))


@pytest.mark.parametrize(
    "note", ["", "text", "text\n\n", "text\n\nsigned\n", "t\n\n\N{EM DASH} a !!\n", NOTE[:-1]]
)
def test_a_broken_note_is_refused(note: str) -> None:
    with pytest.raises(NoteError):
        signed_notes.is_signed(note, signed_notes.read_key(KEY))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "name",
        "a b+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        KEY.replace("530d903a", "530d903b"),
        KEY[:-4],
        KEY.replace("+Aeky", "+Beky"),
        "example.com/foo+530d903a+%%%%",
    ],
)
def test_a_broken_key_is_refused(key: str) -> None:
    with pytest.raises(NoteError):
        signed_notes.read_key(key)
