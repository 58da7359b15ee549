"""Merkle trees of RFC 6962 and RFC 9162: roots, inclusion proofs and consistency proofs. SHA-256.

Nothing here reads or writes: a `Tree` is what its leaves make of it. Proofs are verified without a
tree, by the algorithms of RFC 9162 section 2.1.3 and 2.1.4.
"""

import hashlib
from collections.abc import Iterable, Sequence

EMPTY_ROOT = hashlib.sha256(b"").digest()
TILE_HEIGHT = 8
_TILE_WIDTH = 1 << TILE_HEIGHT
_NAMES_A_FOLDER = 1000


class MerkleError(ValueError):
    """An index or size that the tree does not have."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of a leaf. Another prefix than a node's, so that neither passes for the other."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """An append-only tree. Every complete subtree is hashed once, so a root costs O(log size)."""

    def __init__(self, entries: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]
        for entry in entries:
            self.append(entry)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, entry: bytes) -> int:
        """Add a leaf; its index."""
        return self.append_hash(leaf_hash(entry))

    def append_hash(self, hashed: bytes) -> int:
        """Add a leaf of which only the hash is known; its index."""
        index = len(self)
        self._levels[0].append(hashed)
        at = 0
        while len(self._levels[at]) % 2 == 0:
            if at + 1 == len(self._levels):
                self._levels.append([])
            self._levels[at + 1].append(node_hash(*self._levels[at][-2:]))
            at += 1
        return index

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves, of all of them without one."""
        size = self._checked(len(self) if size is None else size)
        return self._hash(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The path that shows a leaf to be in the tree of the first `size` leaves."""
        size = self._checked(len(self) if size is None else size)
        if not 0 <= index < size:
            raise MerkleError(f"no leaf {index} in a tree of {size}")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._hash(middle, high))
                high = middle
            else:
                path.append(self._hash(low, middle))
                low = middle
        return path[::-1]

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """The path that shows the first `old` leaves to be those that the tree of `new` began with.

        Empty where there is nothing to show: `old` is 0 or `new`.
        """
        new = self._checked(len(self) if new is None else new)
        if not 0 <= old <= new:
            raise MerkleError(f"a tree of {new} does not continue one of {old}")
        path: list[bytes] = []
        low, high, whole = 0, new, True
        while 0 < old < high:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._hash(middle, high))
                high = middle
            else:
                path.append(self._hash(low, middle))
                low, whole = middle, False
        # The old root itself is known to whoever asks; a part of it is not.
        if old and path and not whole:
            path.append(self._hash(low, high))
        return path[::-1]

    def _checked(self, size: int) -> int:
        if not 0 <= size <= len(self):
            raise MerkleError(f"the tree has {len(self)} leaves, not {size}")
        return size

    def _hash(self, low: int, high: int) -> bytes:
        """The hash of the leaves in [low, high); `low` is a multiple of every split below."""
        width = high - low
        if width & (width - 1) == 0:
            at = width.bit_length() - 1
            return self._levels[at][low >> at]
        middle = low + _split(width)
        return node_hash(self._hash(low, middle), self._hash(middle, high))


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return 1 << ((width - 1).bit_length() - 1)


def includes(root: bytes, size: int, index: int, hashed: bytes, path: Sequence[bytes]) -> bool:
    """Whether the path shows the leaf hash at `index` in the tree of `size` with that root."""
    if not 0 <= index < size:
        return False
    at, last, found = index, size - 1, hashed
    for step in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(step, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, step)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def continues(old_root: bytes, old: int, new_root: bytes, new: int, path: Sequence[bytes]) -> bool:
    """Whether the path shows the tree of `new` leaves to continue that of `old`."""
    if not 0 <= old <= new:
        return False
    if old in {0, new}:
        is_same = old_root == (new_root if old else EMPTY_ROOT)
        return not path and is_same
    steps = [old_root, *path] if old & (old - 1) == 0 else list(path)
    return bool(steps) and _continues(old_root, old, new_root, new, steps)


def _continues(
    old_root: bytes, old: int, new_root: bytes, new: int, steps: Sequence[bytes]
) -> bool:
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = node_hash(second, step)
        at, last = at >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


def tile_path(index: int) -> str:
    """The name of a tile within its level, in groups of three digits: 1234067 is x001/x234/067."""
    if index < 0:
        raise MerkleError("a tile's index is not negative")
    groups = [f"{index % _NAMES_A_FOLDER:03d}"]
    while index >= _NAMES_A_FOLDER:
        index //= _NAMES_A_FOLDER
        groups.append(f"x{index % _NAMES_A_FOLDER:03d}")
    return "/".join(reversed(groups))


def tiles(size: int) -> list[tuple[int, int]]:
    """(full tiles, hashes in the partial tile) of each level of a tree, from the leaves up."""
    if size < 0:
        raise MerkleError("a size is not negative")
    found = []
    while size:
        found.append((size // _TILE_WIDTH, size % _TILE_WIDTH))
        size //= _TILE_WIDTH
    return found
