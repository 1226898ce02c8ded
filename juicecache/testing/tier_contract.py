"""What every cache tier must do. Subclass `TierContract` and give it a fixture ``tier``.

The tier under test is empty and has room for ``CAPACITY_BYTES``.
"""

from __future__ import annotations

import os
import random
import threading

from juicecache.cache.tier import Tier
from juicecache.model.layout import BlockKey
from juicecache.model.segments import SEGMENT_BYTES, bounds, segment_sums, touched, unpack_sums

CAPACITY_BYTES = 1 << 20
VOLUME = "0b0f3c9e-6a3f-4f0e-9a51-6d7a3c1e2f00"


def block(number: int, length: int, namespace: str = VOLUME) -> tuple[BlockKey, bytes]:
    """Return a key and the content that belongs to it, the same for every call."""
    content = random.Random(f"{namespace}/{number}/{length}").randbytes(length)
    return BlockKey(namespace, f"{number}_0_{length}", length), content


def found(tier: Tier, key: BlockKey, start: int = 0, stop: int | None = None) -> bytes | None:
    """Return what a tier has of a block, as bytes."""
    view = tier.get(key, start, stop)
    return None if view is None else bytes(view)


class TierContract:
    """The suite; collected by pytest through a subclass whose name begins with ``Test``."""

    def test_what_was_put_comes_back_whole_and_in_parts(self, tier: Tier) -> None:
        """A range is that of the slice; a whole block needs no copy to be a bytes."""
        key, content = block(1, 10_000)
        assert tier.put(key, content) is True
        for _ in range(2):  # the first read of a block may take another way than the later ones
            for start, stop in ((0, None), (0, 10_000), (1, None), (17, 4711), (5, 5), (0, 1)):
                view = tier.get(key, start, stop)
                assert view is not None
                assert view.readonly
                assert bytes(view) == content[start:stop]
            whole = tier.get(key)
            assert whole is not None
            assert isinstance(whole.obj, bytes)
            assert whole.obj == content

    def test_a_buffer_is_filled_and_nothing_beside_it(self, tier: Tier) -> None:
        """Whether the block was read before or not; a miss says so and is counted."""
        key, content = block(1, 300_000)
        parts = ((0, 300_000), (17, 4711), (5, 5), (65_535, 131_073), (299_999, 300_000))
        for start, stop in parts:
            tier.delete(key)
            assert tier.put(key, content)
            for _ in range(2):
                around = bytearray(b"." * (stop - start + 6))
                assert tier.get_into(key, start, stop, memoryview(around)[3 : 3 + stop - start])
                assert around == b"..." + content[start:stop] + b"..."
        assert tier.get_into(block(2, 10)[0], 0, 4, memoryview(bytearray(4))) is False
        assert (tier.stats().hits, tier.stats().misses) == (10, 1)
        tier.close()
        assert tier.get_into(key, 0, 4, memoryview(bytearray(4))) is False

    def test_segments_are_held_with_their_sums(self, tier: Tier) -> None:
        """Whole segments around the range, equal to the content, with the sums that prove them."""
        key, content = block(1, 3 * SEGMENT_BYTES + 10)
        assert tier.hold(key, 0, 1) is None
        tier.put(key, content)
        for start, stop in ((0, key.length), (5, 6), (SEGMENT_BYTES, 3 * SEGMENT_BYTES + 1)):
            held = tier.hold(key, start, stop)
            assert held is not None
            if held.content is not None:
                given = bytes(held.content)
            else:
                given = os.pread(held.fd, held.size, held.offset)
                os.close(held.fd)
            first, last = bounds(touched(start, stop), key.length)
            assert given == content[first:last]
            assert held.size == last - first
            assert unpack_sums(held.sums) == segment_sums(memoryview(given))

    def test_a_sound_block_is_examined_and_stays(self, tier: Tier) -> None:
        """Only a bad copy is dropped; see the tests of directories for those."""
        key, content = block(1, 100_000)
        assert tier.examine(key) is False
        tier.put(key, content)
        assert tier.examine(key) is False
        assert found(tier, key) == content

    def test_the_first_read_may_be_a_part(self, tier: Tier) -> None:
        """Nothing depends on a whole read before."""
        key, content = block(1, 10_000)
        tier.put(key, content)
        assert found(tier, key, 9_000, 9_100) == content[9_000:9_100]

    def test_unknown_blocks_are_misses(self, tier: Tier) -> None:
        """A miss is None, not an error."""
        key, _ = block(1, 10)
        assert tier.get(key) is None
        assert tier.get(key, 2, 5) is None
        assert not tier.contains(key)
        assert tier.where(key) is None
        assert tier.delete(key) is False
        stats = tier.stats()
        assert (stats.hits, stats.misses, stats.items, stats.used_bytes) == (0, 2, 0, 0)

    def test_a_view_is_put_by_value(self, tier: Tier) -> None:
        """The caller's buffer may change at once."""
        key, content = block(1, 5_000)
        buffer = bytearray(content)
        assert tier.put(key, memoryview(buffer))
        buffer[:] = bytes(5_000)
        assert found(tier, key) == content

    def test_a_part_of_a_larger_buffer_is_put(self, tier: Tier) -> None:
        """Only the bytes of the view are kept."""
        key, content = block(1, 5_000)
        assert tier.put(key, memoryview(b"before" + content + b"after")[6:-5])
        view = tier.get(key)
        assert view is not None
        assert view.obj == content

    def test_what_was_read_outlives_the_block(self, tier: Tier) -> None:
        """Neither deletion nor closing touches a view."""
        key, content = block(1, 5_000)
        tier.put(key, content)
        view = tier.get(key, 100)
        assert tier.delete(key) is True
        tier.close()
        assert view is not None
        assert bytes(view) == content[100:]

    def test_deleted_blocks_are_gone_and_free_their_room(self, tier: Tier) -> None:
        """Twice deleted is not an error."""
        key, content = block(1, 5_000)
        tier.put(key, content)
        assert tier.contains(key)
        assert tier.where(key) is not None
        assert tier.delete(key) is True
        assert tier.delete(key) is False
        assert tier.get(key) is None
        assert not tier.contains(key)
        assert tier.stats().used_bytes == tier.stats().items == 0

    def test_namespaces_never_mix(self, tier: Tier) -> None:
        """The same name in another volume is another block."""
        (mine, content), (theirs, other) = block(1, 100), block(1, 100, "another-volume")
        assert mine.name == theirs.name
        tier.put(mine, content)
        assert tier.get(theirs) is None
        tier.put(theirs, other)
        assert tier.delete(mine)
        assert found(tier, theirs) == other

    def test_any_text_names_a_block(self, tier: Tier) -> None:
        """Keys are opaque: no text is special, and distinct texts stay apart."""
        names = ["", ".", "..", "a/b", "a\0b", "a%2Fb", "../../x", "n" * 300, "ä", "A", "a b", "~"]
        keys = [BlockKey(space, name, 4) for space in ("", "..", "v/w") for name in names]
        for number, key in enumerate(keys):
            assert tier.put(key, b"%04d" % number)
        for number, key in enumerate(keys):
            assert found(tier, key) == b"%04d" % number

    def test_an_empty_block_is_a_block(self, tier: Tier) -> None:
        """Its content is no bytes, which is not a miss."""
        key, _ = block(1, 0)
        assert tier.put(key, b"")
        assert found(tier, key) == b""

    def test_putting_again_keeps_one_copy(self, tier: Tier) -> None:
        """The second put is true and takes no room."""
        key, content = block(1, 5_000)
        assert tier.put(key, content)
        used = tier.stats().used_bytes
        assert tier.put(key, content)
        stats = tier.stats()
        assert (stats.used_bytes, stats.items, stats.stored) == (used, 1, 1)

    def test_never_more_than_the_capacity(self, tier: Tier) -> None:
        """New blocks push out others; what is counted is what is there."""
        blocks = [block(number, 30_000) for number in range(60)]
        for key, content in blocks:
            assert tier.put(key, content)
            assert tier.stats().used_bytes <= CAPACITY_BYTES
        here = [(key, content) for key, content in blocks if tier.contains(key)]
        assert len(here) == tier.stats().items
        assert len(here) + tier.stats().evicted == 60
        assert len(here) * 30_000 > CAPACITY_BYTES // 2
        assert all(found(tier, key) == content for key, content in here)

    def test_a_block_beyond_the_capacity_is_not_kept(self, tier: Tier) -> None:
        """And pushes nothing out."""
        small, content = block(1, 100)
        tier.put(small, content)
        key, huge = block(2, CAPACITY_BYTES + 1)
        assert tier.put(key, huge) is False
        assert tier.get(key) is None
        assert found(tier, small) == content

    def test_counts(self, tier: Tier) -> None:
        """Hits, misses and what was stored."""
        (here, content), (gone, _) = block(1, 100), block(2, 100)
        tier.put(here, content)
        tier.get(here)
        tier.get(here, 1, 2)
        tier.get(gone)
        stats = tier.stats()
        assert (stats.hits, stats.misses, stats.stored, stats.items) == (2, 1, 1, 1)
        assert (stats.corrupt, stats.errors, stats.evicted) == (0, 0, 0)
        assert 100 <= stats.used_bytes <= stats.capacity_bytes

    def test_a_closed_tier_has_and_keeps_nothing(self, tier: Tier) -> None:
        """Closing twice is fine."""
        key, content = block(1, 100)
        tier.put(key, content)
        tier.close()
        tier.close()
        assert tier.get(key) is None
        assert tier.put(key, content) is False
        assert tier.delete(key) is False
        assert not tier.contains(key)
        assert tier.stats().stored == 1

    def test_threads_share_it(self, tier: Tier) -> None:
        """Whatever they do at once, a block that is found has its own content."""
        wrong: list[BaseException | BlockKey] = []

        def work(seed: int) -> None:
            rng = random.Random(seed)
            try:
                for _ in range(80):
                    key, content = block(rng.randrange(20), 60_000)
                    if rng.random() < 0.1:
                        tier.delete(key)
                    here = found(tier, key)
                    if here is None:
                        tier.put(key, content)
                    elif here != content:
                        wrong.append(key)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert tier.stats().used_bytes <= CAPACITY_BYTES
