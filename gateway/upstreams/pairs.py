"""The power of two choices, worked out in advance: an endless round of pairs, of which the less busy one is taken.

The first of each pair comes by smooth weighted turns, as nginx takes them, so that idle targets share the calls by
their weights to the letter. The second is another one, by chance and weight. A choice is then a `next` and a
comparison: no random number, nothing allocated, the same for two targets and two hundred.
"""

from __future__ import annotations

from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.upstreams.member import Member

PAIRS_MIN = 256
"""Pairs in a round: enough for everybody to meet everybody."""

Pair = tuple["Member", "Member"]


def pairs_of(members: Sequence[Member], chance: Random) -> Iterator[Pair]:
    """Pairs without end; of one target, it with itself. There must be one at least."""
    if len(members) == 1:
        return cycle([(members[0], members[0])])
    count = max(PAIRS_MIN, 8 * len(members))
    pairs = [(first, _other(first, members, chance)) for first in islice(_turns(members), count)]
    start = chance.randrange(count)
    return cycle(pairs[start:] + pairs[:start])


def less_busy(pair: Pair) -> Member:
    """The one with fewer calls for its share; at a tie the one whose turn it is."""
    first, second = pair
    if first.transport.load * second.share <= second.transport.load * first.share:
        return first
    return second


def _turns(members: Sequence[Member]) -> Iterator[Member]:
    """Each target as often as its share wants, and as evenly spread as can be."""
    total = sum(member.share for member in members)
    credit = dict.fromkeys(members, 0.0)
    while True:
        for member in members:
            credit[member] += member.share
        first = max(members, key=credit.__getitem__)
        credit[first] -= total
        yield first


def _other(first: Member, members: Sequence[Member], chance: Random) -> Member:
    others = [member for member in members if member is not first]
    return chance.choices(others, [member.share for member in others])[0]
