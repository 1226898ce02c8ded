"""Both sides agree only where both know the secret, speak of the same and nobody changed a word."""

from __future__ import annotations

import hashlib
import pickle
import random
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from juicecache.errors import PeerDeniedError, PeerError, PeerProtocolError
from juicecache.peers import wire
from juicecache.peers.handshake import NONCE_BYTES, Caller, Doorkeeper, Terms, refusal
from juicecache.peers.wire import STRANGER_BYTES_MAX, Decoder, Frame, Kind

SECRET = b"0f8a-the-secret-of-the-group"
TERMS = Terms("3d0fa5b2-volume", "group-1", SECRET, (1, 1))
ABOUT = {"name": "n1", "host": "10.0.0.1", "port": 4321, "weight": 2.5, "backup": False, "x": None}

_nonces = random.Random(1)


def nonce() -> bytes:
    return _nonces.randbytes(NONCE_BYTES)


def caller_of(terms: Terms = TERMS) -> Caller:
    return Caller(terms, nonce())


def member_of(terms: Terms = TERMS, about: dict[str, Any] = ABOUT) -> Doorkeeper:
    return Doorkeeper(terms, nonce(), about)


def heard(raw: bytes) -> Frame:
    (found,) = Decoder().feed(memoryview(raw))
    return found


def altered(raw: bytes, at: int, value: Any) -> bytes:
    """What a man in the middle makes of a frame by putting one value in place of another."""
    found = heard(raw)
    return wire.frame(found.kind, [*found.header[:at], value, *found.header[at + 1 :]])


def shake(caller: Caller, member: Doorkeeper) -> dict[str, Any]:
    challenge = member.receive(heard(caller.hello()))
    welcome = member.receive(heard(caller.prove(heard(challenge))))
    return caller.accept(heard(welcome))


# --------------------------------------------------------------------- agreement


def test_both_sides_agree() -> None:
    caller, member = caller_of(), member_of()
    assert not member.is_open
    assert shake(caller, member) == ABOUT
    assert member.is_open


@given(st.text(min_size=1, max_size=60), st.text(max_size=60), st.binary(min_size=1))
def test_both_agree_on_any_names_and_secret(volume: str, group: str, secret: bytes) -> None:
    terms = Terms(volume, group, secret)
    member = member_of(terms)
    assert shake(caller_of(terms), member) == ABOUT
    assert member.is_open


def test_what_strangers_send_fits_into_their_limit() -> None:
    terms = Terms("v" * 200, "ü" * 200, SECRET)
    caller, member = caller_of(terms), member_of(terms)
    hello = caller.hello()
    challenge = member.receive(heard(hello))
    proof = caller.prove(heard(challenge))
    welcome = member.receive(heard(proof))
    assert max(map(len, (hello, challenge, proof, welcome))) <= STRANGER_BYTES_MAX


# --------------------------------------------------------------------- secret, volume, group


@pytest.mark.parametrize("wrong", [b"x", SECRET + b"x", SECRET[:-1], SECRET + b"\0"])
def test_a_caller_with_another_secret_is_denied(wrong: bytes) -> None:
    caller, member = caller_of(Terms(TERMS.volume, TERMS.group, wrong)), member_of()
    proof = caller.prove(heard(member.receive(heard(caller.hello()))))
    with pytest.raises(PeerDeniedError, match="the secret of the group differs"):
        member.receive(heard(proof))
    assert not member.is_open


def test_a_member_without_secret_denies_everybody() -> None:
    member = member_of(Terms(TERMS.volume, TERMS.group, b""))
    with pytest.raises(PeerDeniedError, match="no secret yet"):
        member.receive(heard(caller_of().hello()))
    assert not member.is_open


def test_a_caller_without_secret_does_not_begin() -> None:
    with pytest.raises(PeerDeniedError, match="no secret of the group yet"):
        caller_of(Terms(TERMS.volume, TERMS.group, b"")).hello()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (b"\0", b"\0\0"),
        (SECRET, SECRET + bytes(64 - len(SECRET))),
        (b"x" * 65, hashlib.sha256(b"x" * 65).digest()),
    ],
)
def test_secrets_that_are_one_to_hmac_are_not_one_here(ours: bytes, theirs: bytes) -> None:
    caller = caller_of(Terms(TERMS.volume, TERMS.group, ours))
    member = member_of(Terms(TERMS.volume, TERMS.group, theirs))
    proof = caller.prove(heard(member.receive(heard(caller.hello()))))
    with pytest.raises(PeerDeniedError):
        member.receive(heard(proof))


@pytest.mark.parametrize(
    ("volume", "group", "why"),
    [
        ("another", TERMS.group, "another volume"),
        (TERMS.volume, "another", "another cache group"),
        (TERMS.volume + "x", TERMS.group, "another volume"),
        (TERMS.volume, "", "another cache group"),
        (TERMS.group, TERMS.volume, "another volume"),
    ],
)
def test_another_volume_or_group_is_denied(volume: str, group: str, why: str) -> None:
    member = member_of()
    with pytest.raises(PeerDeniedError, match=why):
        member.receive(heard(caller_of(Terms(volume, group, SECRET)).hello()))
    assert not member.is_open


def test_names_that_are_the_same_end_to_end_are_not_the_same() -> None:
    caller, member = caller_of(Terms("ab", "c", SECRET)), member_of(Terms("a", "bc", SECRET))
    hello = altered(altered(caller.hello(), 2, "a"), 3, "bc")
    proof = caller.prove(heard(member.receive(heard(hello))))
    with pytest.raises(PeerDeniedError, match="secret"):
        member.receive(heard(proof))


# --------------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("callers", "members", "agreed"),
    [
        ((1, 1), (1, 1), 1),
        ((1, 3), (1, 3), 3),
        ((1, 2), (2, 3), 2),
        ((2, 3), (1, 2), 2),
        ((1, 9), (4, 5), 5),
        ((4, 5), (1, 9), 5),
    ],
)
def test_the_highest_version_of_both_is_spoken(
    callers: tuple[int, int], members: tuple[int, int], agreed: int
) -> None:
    caller = caller_of(Terms(TERMS.volume, TERMS.group, SECRET, callers))
    member = member_of(Terms(TERMS.volume, TERMS.group, SECRET, members))
    challenge = member.receive(heard(caller.hello()))
    assert heard(challenge).header[0] == agreed
    welcome = member.receive(heard(caller.prove(heard(challenge))))
    assert caller.accept(heard(welcome)) == ABOUT


@pytest.mark.parametrize(
    ("callers", "members"), [((1, 2), (3, 4)), ((3, 4), (1, 2)), ((2, 1), (1, 2)), ((0, 0), (1, 1))]
)
def test_both_learn_why_no_version_is_common(
    callers: tuple[int, int], members: tuple[int, int]
) -> None:
    caller = caller_of(Terms(TERMS.volume, TERMS.group, SECRET, callers))
    member = member_of(Terms(TERMS.volume, TERMS.group, SECRET, members))
    words = (
        f"versions {members[0]} to {members[1]} of the protocol, and the caller {callers[0]} "
        f"to {callers[1]}: update the older one"
    )
    with pytest.raises(PeerProtocolError, match=words) as caught:
        member.receive(heard(caller.hello()))
    with pytest.raises(PeerProtocolError, match=words):
        caller.prove(heard(refusal(caught.value)))


def test_a_version_lowered_in_the_hello_is_found_out() -> None:
    terms = Terms(TERMS.volume, TERMS.group, SECRET, (1, 2))
    caller, member = caller_of(terms), member_of(terms)
    challenge = member.receive(heard(altered(caller.hello(), 1, 1)))
    assert heard(challenge).header[0] == 1
    with pytest.raises(PeerDeniedError):
        member.receive(heard(caller.prove(heard(challenge))))
    assert not member.is_open


@pytest.mark.parametrize("seen_by_member", [1, 2])
def test_a_version_lowered_in_the_challenge_is_found_out_by_both(seen_by_member: int) -> None:
    terms = Terms(TERMS.volume, TERMS.group, SECRET, (1, 2))
    caller, member = caller_of(terms), member_of(terms)
    challenge = member.receive(heard(altered(caller.hello(), 1, seen_by_member)))
    proof = caller.prove(heard(altered(challenge, 0, 1)))
    with pytest.raises(PeerDeniedError):
        member.receive(heard(proof))
    # Nor does a proof of the other version, made by somebody who spoke it, open the caller.
    with pytest.raises(PeerDeniedError):
        caller.accept(Frame(Kind.WELCOME, [heard(proof).header[0], ABOUT], bytearray()))


@pytest.mark.parametrize("version", [0, 2, -1, True, 1.0, None, "1", b"1", [1]])
def test_a_version_that_was_not_offered_is_refused(version: object) -> None:
    caller, member = caller_of(), member_of()
    challenge = member.receive(heard(caller.hello()))
    with pytest.raises(PeerProtocolError, match="challenge does not have its form"):
        caller.prove(heard(altered(challenge, 0, version)))


# --------------------------------------------------------------------- men in the middle


@pytest.mark.parametrize(
    ("at", "value"), [(0, 0), (1, 7), (4, bytes(NONCE_BYTES)), (4, b"\xff" * NONCE_BYTES)]
)
def test_a_hello_that_was_changed_is_found_out(at: int, value: Any) -> None:
    caller, member = caller_of(), member_of()
    challenge = member.receive(heard(altered(caller.hello(), at, value)))
    with pytest.raises(PeerDeniedError):
        member.receive(heard(caller.prove(heard(challenge))))


def test_a_nonce_that_was_changed_in_the_challenge_is_found_out() -> None:
    caller, member = caller_of(), member_of()
    challenge = member.receive(heard(caller.hello()))
    proof = caller.prove(heard(altered(challenge, 1, bytes(NONCE_BYTES))))
    with pytest.raises(PeerDeniedError):
        member.receive(heard(proof))


@given(st.integers(0, 255))
def test_a_proof_with_any_bit_changed_is_denied(bit: int) -> None:
    caller, member = caller_of(), member_of()
    proof = heard(caller.prove(heard(member.receive(heard(caller.hello())))))
    wrong = bytearray(proof.header[0])
    wrong[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PeerDeniedError):
        member.receive(Frame(Kind.PROOF, [bytes(wrong)], bytearray()))
    assert not member.is_open
    welcome = heard(member.receive(proof))  # the caller itself still comes in, once
    wrong = bytearray(welcome.header[0])
    wrong[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PeerDeniedError):
        caller.accept(Frame(Kind.WELCOME, [bytes(wrong), ABOUT], bytearray()))


@pytest.mark.parametrize("proof", [b"", bytes(32), bytes(31), bytes(33), "a" * 32, None, 0, [b""]])
def test_what_is_no_proof_is_denied_by_both(proof: object) -> None:
    caller, member = caller_of(), member_of()
    challenge = member.receive(heard(caller.hello()))
    with pytest.raises(PeerDeniedError):
        member.receive(Frame(Kind.PROOF, [proof], bytearray()))
    caller.prove(heard(challenge))
    with pytest.raises(PeerDeniedError):
        caller.accept(Frame(Kind.WELCOME, [proof, ABOUT], bytearray()))


def test_a_proof_that_was_heard_opens_no_other_connection() -> None:
    caller, member = caller_of(), member_of()
    hello = caller.hello()
    proof = caller.prove(heard(member.receive(heard(hello))))
    member.receive(heard(proof))
    assert member.is_open
    other = member_of()
    other.receive(heard(hello))
    with pytest.raises(PeerDeniedError):
        other.receive(heard(proof))
    assert not other.is_open


def test_a_welcome_that_was_heard_opens_no_other_connection() -> None:
    caller, member = caller_of(), member_of()
    challenge = member.receive(heard(caller.hello()))
    welcome = member.receive(heard(caller.prove(heard(challenge))))
    other = caller_of()
    other.hello()
    other.prove(heard(challenge))
    with pytest.raises(PeerDeniedError, match="it does not know the secret"):
        other.accept(heard(welcome))


def test_a_caller_is_not_told_his_own_proof_as_that_of_a_member() -> None:
    caller = caller_of()
    hello = heard(caller.hello())
    # The fake member even takes the caller's own nonce for its challenge.
    proof = heard(caller.prove(Frame(Kind.CHALLENGE, [1, hello.header[4]], bytearray())))
    with pytest.raises(PeerDeniedError, match="it does not know the secret"):
        caller.accept(Frame(Kind.WELCOME, [*proof.header, ABOUT], bytearray()))


def test_a_member_is_not_told_the_proof_of_a_member_as_that_of_a_caller() -> None:
    caller, member = caller_of(), member_of()
    challenge = member.receive(heard(caller.hello()))
    welcome = heard(member.receive(heard(caller.prove(heard(challenge)))))
    # The same words on both sides, with nonces that no real member would use twice.
    said = heard(challenge).header[1]
    other = Doorkeeper(TERMS, said, ABOUT)
    other.receive(heard(altered(caller_of().hello(), 4, said)))
    with pytest.raises(PeerDeniedError):
        other.receive(Frame(Kind.PROOF, welcome.header[:1], bytearray()))


# --------------------------------------------------------------------- what a member says


@pytest.mark.parametrize(
    "about", [ABOUT, None, {}, [], "text", {str(n): n for n in range(1000)}, {"a": {"b": 1}}]
)
def test_what_a_fake_member_says_is_never_believed(about: object) -> None:
    caller = caller_of()
    caller.hello()
    caller.prove(Frame(Kind.CHALLENGE, [1, nonce()], bytearray()))
    with pytest.raises((PeerDeniedError, PeerProtocolError)):
        caller.accept(Frame(Kind.WELCOME, [bytes(32), about], bytearray()))


def test_a_fake_member_with_another_secret_is_denied() -> None:
    caller = caller_of()
    fake = Caller(Terms(TERMS.volume, TERMS.group, b"guessed"), heard(caller.hello()).header[4])
    challenge = Frame(Kind.CHALLENGE, [1, nonce()], bytearray())
    caller.prove(challenge)
    guess = heard(fake.prove(challenge)).header[0]
    with pytest.raises(PeerDeniedError):
        caller.accept(Frame(Kind.WELCOME, [guess, ABOUT], bytearray()))


@pytest.mark.parametrize(
    "about", [None, [], "text", 1, {str(n): n for n in range(33)}, {"a": {}}, {"a": []}, {"a": b""}]
)
def test_a_member_has_to_say_texts_and_numbers(about: Any) -> None:
    with pytest.raises(PeerProtocolError, match="welcome does not have its form"):
        shake(caller_of(), member_of(about=about))


# --------------------------------------------------------------------- refusals


@pytest.mark.parametrize("kind", [PeerDeniedError, PeerProtocolError])
def test_a_refusal_arrives_as_what_it_is(kind: type[PeerError]) -> None:
    caller, member = caller_of(), member_of()
    frame = heard(refusal(kind("in words")))
    assert frame.kind == Kind.REFUSED
    for hear in (caller.prove, caller.accept, member.receive):
        with pytest.raises(PeerError, match=r"^it refuses us: in words$") as caught:
            hear(frame)
        assert type(caught.value) is kind


def test_a_refusal_is_of_bounded_length_on_both_sides() -> None:
    raw = refusal(PeerDeniedError("\U0001f600" * 5000))
    assert len(raw) <= STRANGER_BYTES_MAX
    with pytest.raises(PeerDeniedError) as caught:
        caller_of().prove(Frame(Kind.REFUSED, ["denied", "x" * 100_000], bytearray()))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "unseen", ["\x1b[2J", "\r\n", "\0", "\x7f", "\x9b31m", "\u202e", "\u2028", "\ufeff", "\t"]
)
def test_a_refusal_cannot_write_what_is_no_text(unseen: str) -> None:
    with pytest.raises(PeerProtocolError) as caught:
        caller_of().prove(Frame(Kind.REFUSED, ["protocol", f"a{unseen}b\n"], bytearray()))
    assert str(caught.value).isprintable()


@given(st.lists(st.none() | st.integers() | st.text() | st.binary() | st.lists(st.text())))
def test_a_refusal_of_any_form_is_a_refusal(header: list[Any]) -> None:
    with pytest.raises(PeerError, match=r"^it refuses us: ") as caught:
        caller_of().accept(Frame(Kind.REFUSED, header, bytearray()))
    assert str(caught.value).isprintable()


# --------------------------------------------------------------------- order and form


ORDINARY = {kind: Frame(kind, [], bytearray()) for kind in Kind if kind != Kind.REFUSED}


@pytest.mark.parametrize("kind", ORDINARY)
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_member_takes_a_hello_and_then_a_proof(kind: Kind, count: int) -> None:
    wrong = Frame(kind, [None] * count, bytearray())
    member = member_of()
    with pytest.raises(PeerError):
        member.receive(wrong)
    member.receive(heard(caller_of().hello()))
    with pytest.raises(PeerError):
        member.receive(wrong)
    assert not member.is_open


@pytest.mark.parametrize("kind", ORDINARY)
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_caller_takes_a_challenge_and_then_a_welcome(kind: Kind, count: int) -> None:
    wrong = Frame(kind, [None] * count, bytearray())
    caller = caller_of()
    caller.hello()
    for hear in (caller.prove, caller.accept):
        with pytest.raises(PeerError):
            hear(wrong)


def test_frames_out_of_order_are_refused() -> None:
    caller, member = caller_of(), member_of()
    hello = heard(caller.hello())
    challenge = heard(member.receive(hello))
    with pytest.raises(PeerProtocolError, match="a HELLO came where a PROOF belongs"):
        member.receive(hello)
    with pytest.raises(PeerProtocolError, match="a CHALLENGE came where a WELCOME belongs"):
        caller.accept(challenge)
    proof = heard(caller.prove(challenge))
    with pytest.raises(PeerProtocolError, match="a PROOF came where a HELLO belongs"):
        member_of().receive(proof)
    welcome = heard(member.receive(proof))
    with pytest.raises(PeerProtocolError, match="a WELCOME came where a CHALLENGE belongs"):
        caller_of().prove(welcome)


def test_a_welcome_before_any_challenge_is_denied() -> None:
    caller = caller_of()
    caller.hello()
    with pytest.raises(PeerDeniedError):
        caller.accept(Frame(Kind.WELCOME, [bytes(32), ABOUT], bytearray()))


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("value", [None, True, 1.5, "x", b"x", [], [[[]]], {}, -1, 2**64 - 1])
def test_a_hello_of_any_other_form_is_refused(at: int, value: Any) -> None:
    member = member_of()
    hello = heard(altered(caller_of().hello(), at, value))
    if (at, value) in ((1, 2**64 - 1), (0, -1)):
        member.receive(hello)  # versions of a caller from another time
    else:
        with pytest.raises(PeerError):
            member.receive(hello)


def _flipped(rng: random.Random, raw: bytes) -> bytes:
    wrong = bytearray(raw)
    wrong[rng.randrange(len(wrong))] ^= 1 << rng.randrange(8)
    return bytes(wrong)


def _shake_with(rng: random.Random, damaged: int) -> None:
    """Shake hands; one bit of frame number ``damaged`` is flipped on its way."""
    caller, member = caller_of(), member_of()
    raw = caller.hello()
    for number, hear in enumerate((member.receive, caller.prove, member.receive, caller.accept)):
        frames = list(Decoder().feed(memoryview(_flipped(rng, raw) if number == damaged else raw)))
        if not frames:
            raise PeerProtocolError("it waits for the rest")
        answer = hear(frames[0])
        if isinstance(answer, bytes):
            raw = answer


def test_no_handshake_with_a_bit_flipped_on_its_way_ends_well() -> None:
    rng = random.Random(7)
    for number in range(5000):
        with pytest.raises(PeerError):
            _shake_with(rng, number % 4)


def test_what_a_member_says_cannot_be_changed_on_its_way() -> None:
    caller, member = caller_of(), member_of()
    proof = caller.prove(heard(member.receive(heard(caller.hello()))))
    welcome = member.receive(heard(proof))
    with pytest.raises(PeerDeniedError):
        caller.accept(heard(altered(welcome, 1, {**ABOUT, "weight": 1000})))
    assert caller.accept(heard(welcome)) == ABOUT


# --------------------------------------------------------------------- the secret


def test_nothing_shows_the_secret() -> None:
    caller, member = caller_of(), member_of()
    hello = caller.hello()
    challenge = member.receive(heard(hello))
    proof = caller.prove(heard(challenge))
    welcome = member.receive(heard(proof))
    denied = []
    other = member_of()
    other.receive(heard(caller_of().hello()))
    wrong = bytes(32)
    for hear, frame in (
        (other.receive, Frame(Kind.PROOF, [wrong], bytearray())),
        (caller.accept, Frame(Kind.WELCOME, [wrong, ABOUT], bytearray())),
    ):
        with pytest.raises(PeerDeniedError) as caught:
            hear(frame)
        denied += [caught.value, refusal(caught.value), pickle.dumps(caught.value)]
    shown = [repr(TERMS), str(TERMS), repr(caller), repr(member), *map(repr, denied)]
    for one in shown:
        assert SECRET.decode() not in one
        assert "secret=" not in one
    for raw in (hello, challenge, proof, welcome):
        assert SECRET not in raw
        assert SECRET not in msgpack.packb(heard(raw).header)
