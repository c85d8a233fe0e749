"""Random commands that often meet the state they are about."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from dref_django.protocol import (
    GRAVE,
    INT_MAX,
    INT_MIN,
    KEEP,
    RESERVATION,
    Acquire,
    Add,
    Break,
    Check,
    Command,
    Delete,
    Expire,
    Find,
    Inspect,
    Read,
    Release,
    Renew,
    Splice,
    Write,
    check_batch,
)

GROUP = "gruppe\x1f"
# One group, so that any of them may stand in one batch on a cluster, too; few, so that commands meet.
NAMES = tuple(GROUP + name for name in ("a", "b{}", "ünïcode/☃ *?[x]"))
OWNERS = ("node/1", "node/2", "other/1", "other/2")
STEPS = (0, 1, 1000, RESERVATION, GRAVE // 2, GRAVE - 1, GRAVE, GRAVE + 1, 3 * GRAVE)
steps = st.one_of(*[st.sampled_from((0, 1, 1000))] * 5, st.just(RESERVATION), st.sampled_from(STEPS))

names = st.sampled_from((NAMES[0], *NAMES))
owners = st.sampled_from(OWNERS)
ttls = st.sampled_from((None, None, KEEP, 1, 1500, RESERVATION, GRAVE))
numbers = st.sampled_from((0, 1, -1, 7, 2**53 + 1, INT_MAX, INT_MIN))
data = st.one_of(st.binary(max_size=12), st.sampled_from((b"0123456789", b"x" * 300)), numbers)
splices = st.builds(
    lambda start, length, replacement: Splice(start, start + length, replacement),
    st.integers(0, 12),
    st.integers(0, 6),
    st.binary(max_size=12),
)
ops = st.one_of(st.just(b""), st.integers(0, 12).map(lambda number: number.to_bytes(8, "big")))


# Which version or token: -1 is the newest seen so far, -2 the one before ...; `resolved` puts in the number.
seen = st.sampled_from((0, -1, -1, -2, -3, -4))
expected = st.one_of(st.none(), seen)

entry_commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Write, names, data, expected, ttls, ops),
    st.builds(Write, names, splices, seen, ttls, ops),
    st.builds(Add, names, numbers, st.sampled_from((0, 0, 5, INT_MIN)), ops),
    st.builds(Delete, names, expected, ops),
    st.builds(Expire, names, st.sampled_from((None, 1, 1500, GRAVE)), ops),
    st.builds(Read, names, expected),
    st.builds(Check, names, seen),
    st.builds(Find, names, ops.filter(bool)),
)
_times = st.sampled_from((1000, RESERVATION, GRAVE))
_waits = st.sampled_from((0, 1, 1000, RESERVATION, GRAVE))
lease_commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Acquire, names, owners, _times, _waits, st.sampled_from(("", '{"é": 1}'))),
    st.builds(Acquire, names, owners, _times, _waits),
    st.builds(Renew, names, owners, seen, _times),
    st.builds(Release, names, owners, seen, st.sampled_from((0, 0, 1000))),
    st.builds(Break, names, seen),
    st.builds(Inspect, names),
)


def resolved(command: Command, versions: list[int], tokens: list[int]) -> dict[str, int]:
    """The fields of the command that stand for a version or a token, with the number that they stand for."""
    found: dict[str, int] = {}
    for field, numbers_seen in (("expect", versions), ("known", versions), ("token", tokens)):
        place = getattr(command, field, None)
        if place is not None and place < 0:
            found[field] = numbers_seen[place] if len(numbers_seen) >= -place else 0
    return found


def may_stand_together(commands: list[Command]) -> bool:
    try:
        check_batch(commands)
    except ValueError:
        return False
    return True


batches: st.SearchStrategy[list[Command]] = st.one_of(
    *[entry_commands.map(lambda command: [command])] * 2,
    *[lease_commands.map(lambda command: [command])] * 2,
    st.lists(entry_commands, min_size=2, max_size=4).filter(may_stand_together),
    st.lists(lease_commands, min_size=2, max_size=3),
)


# --- the same by dice: many more a second, at the price of not being shrunk one by one -----------------------------

_SEEN = (0, -1, -1, -2, -3, -4)
_EXPECTED = (None, None, *_SEEN)
_TTLS = (None, None, None, KEEP, KEEP, 1, 1500, RESERVATION, GRAVE)
_NUMBERS = (0, 1, -1, 7, 2**53 + 1, INT_MAX, INT_MIN)
_TIMES = (1000, RESERVATION, GRAVE)
_WAITS = (0, 0, 1, 1000, RESERVATION, GRAVE)


def rolled_step(dice: Random) -> int:
    return dice.choice(STEPS if dice.random() < 0.05 else (0, 0, 0, 1, 1000, RESERVATION))


def rolled_step_of_a_bad_clock(dice: Random) -> int:
    """At most a second forwards, and up to hours back."""
    return dice.choice((0, 0, 0, 1, 1000, RESERVATION, -1, -1000, -RESERVATION, -4 * GRAVE))


def rolled_batch(dice: Random) -> list[Command]:
    roll = rolled_lease if dice.random() < 0.35 else _rolled_entry
    while True:
        commands = [roll(dice) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
        if may_stand_together(commands):
            return commands


def _rolled_entry(dice: Random) -> Command:
    pick = dice.choice
    name, op = pick(NAMES), pick((b"", pick(range(12)).to_bytes(8, "big")))
    match pick(("write", "write", "splice", "add", "add", "delete", "expire", "read", "check", "find")):
        case "write":
            value = pick((dice.randbytes(pick((0, 1, 10, 300))), pick(_NUMBERS), pick(range(9))))
            return Write(name, value, pick(_EXPECTED), pick(_TTLS), op)
        case "splice":
            start = pick(range(12))
            splice = Splice(start, start + pick(range(6)), dice.randbytes(pick(range(12))))
            return Write(name, splice, pick(_SEEN), pick(_TTLS), op)
        case "add":
            return Add(name, pick((1, 7, pick(_NUMBERS))), pick((0, 0, 5, INT_MIN)), op)
        case "delete":
            return Delete(name, pick(_EXPECTED), op)
        case "expire":
            return Expire(name, pick((None, None, 1, 1500, GRAVE)), op)
        case "check":
            return Check(name, pick(_SEEN))
        case "find":
            return Find(name, op or bytes(8))
        case _:
            return Read(name, pick(_EXPECTED))


def rolled_lease(dice: Random) -> Acquire | Renew | Release | Break | Inspect:
    pick = dice.choice
    name, owner, token = pick(NAMES), pick(OWNERS), pick(_SEEN)
    match pick(("acquire", "acquire", "acquire", "renew", "release", "break", "inspect")):
        case "acquire":
            return Acquire(name, owner, pick(_TIMES), pick(_WAITS), pick(("", '{"\u00e9": 1}')))
        case "renew":
            return Renew(name, owner, token, pick(_TIMES))
        case "release":
            return Release(name, owner, token, pick((0, 0, 1000)))
        case "break":
            return Break(name, token)
        case _:
            return Inspect(name)
