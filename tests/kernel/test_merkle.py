import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel import merkle
from kernel.merkle import MerkleError, Tree

# The well-known leaves of the Certificate Transparency tests, and the roots of their first sizes.
LEAVES = [
    bytes.fromhex(one)
    for one in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def naive_root(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962, read from the page."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    left, right = naive_root(leaves[:half]), naive_root(leaves[half:])
    return hashlib.sha256(b"\x01" + left + right).digest()


@pytest.mark.parametrize("size", ROOTS)
def test_the_known_roots(size: int) -> None:
    assert Tree(LEAVES).root(size).hex() == ROOTS[size]


def test_a_tree_grown_leaf_by_leaf_is_the_definition_at_every_size() -> None:
    leaves = [str(at).encode() for at in range(70)]
    tree = Tree()
    for at, leaf in enumerate(leaves):
        assert tree.append(leaf) == at
        assert tree.root() == naive_root(leaves[: at + 1])
    assert [tree.root(size) for size in range(71)] == [naive_root(leaves[:n]) for n in range(71)]


def test_every_proof_of_small_trees_holds_and_no_changed_one_does() -> None:
    tree = Tree(str(at).encode() for at in range(33))
    for size in range(1, 34):
        root = tree.root(size)
        for index in range(size):
            path = tree.inclusion(index, size)
            hashed = merkle.leaf_hash(str(index).encode())
            assert merkle.includes(root, size, index, hashed, path)
            assert not merkle.includes(root, size, index, merkle.leaf_hash(b"no"), path)
            assert not merkle.includes(root, size, index, hashed, [*path, root])
            assert not path or not merkle.includes(root, size, index, hashed, path[:-1])
        for old in range(size + 1):
            path, before = tree.consistency(old, size), tree.root(old)
            assert merkle.continues(before, old, root, size, path)
            assert not merkle.continues(hashlib.sha256().digest()[::-1], old, root, size, path)
            if path:
                assert not merkle.continues(before, old, root, size, path[:-1])
                assert not merkle.continues(before, old, root, size, [*path, root])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.data())
def test_proofs_of_any_size_hold(size: int, data: st.DataObject) -> None:
    tree = Tree(at.to_bytes(2, "big") for at in range(size))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    hashed = merkle.leaf_hash(index.to_bytes(2, "big"))
    assert merkle.includes(tree.root(), size, index, hashed, tree.inclusion(index))
    assert merkle.continues(tree.root(old), old, tree.root(), size, tree.consistency(old))


def test_what_the_tree_does_not_have_is_refused() -> None:
    tree = Tree(LEAVES)
    for ask in (
        lambda: tree.root(9),
        lambda: tree.inclusion(8),
        lambda: tree.inclusion(-1),
        lambda: tree.inclusion(3, 3),
        lambda: tree.consistency(5, 4),
        lambda: tree.consistency(0, 9),
        lambda: merkle.tile_path(-1),
        lambda: merkle.tiles(-1),
    ):
        with pytest.raises(MerkleError):
            ask()
    assert not merkle.includes(tree.root(), 8, 8, merkle.leaf_hash(b""), [])
    assert not merkle.continues(tree.root(), 8, tree.root(7), 7, [])


def test_tiles_are_named_and_counted() -> None:
    assert [merkle.tile_path(at) for at in (0, 999, 1000, 1234067)] == [
        "000",
        "999",
        "x001/000",
        "x001/x234/067",
    ]
    assert merkle.tiles(70000) == [(273, 112), (1, 17), (0, 1)]
    assert merkle.tiles(256) == [(1, 0), (0, 1)]
    assert merkle.tiles(0) == []
