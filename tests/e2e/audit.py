"""The audit: do the books hold, by the tables alone, and by what the upstream and the callers have seen?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.database.postgres import rows, snapshot
from tests.e2e.caller import Answer
from tests.e2e.upstream import TOLD, Upstream


@dataclass
class Entry:
    kind: str
    amount: int
    reason: str | None


class Books:
    """The tables of one moment."""

    def __init__(self, database: Path | str) -> None:
        with snapshot(_url(database)) as ask:  # one for all that is read
            self.keys = ask("SELECT id, key_id, balance, held FROM keys")
            self.holds = ask("SELECT key, cost, request_id FROM holds")
            self.entries = ask("SELECT key, kind, amount, request_id, reason FROM entries")
            self.caps = ask("SELECT key, month, month_spent FROM spend_caps")
            self.times = ask("SELECT key, created_at, -amount FROM entries WHERE kind = 'spend'")
            self.times += ask("SELECT key, created_at, cost FROM holds")
        self.spent: dict[str, Entry] = {
            request_id: Entry(kind, amount, reason)
            for _, kind, amount, request_id, reason in self.entries
            if request_id is not None
        }
        self.held = {request_id for _, _, request_id in self.holds}

    def available(self, key_id: str) -> int:
        return next(balance - held for _, name, balance, held in self.keys if name == key_id)

    @property
    def charged(self) -> dict[str, int]:
        """What each request cost, where it cost anything."""
        return {request_id: -entry.amount for request_id, entry in self.spent.items() if entry.amount}


def audit(
    database: Path | str,
    upstream: Upstream | None = None,
    answers: Iterable[Answer] = (),
    *,
    holds_may_be_open: bool = False,
) -> Books:
    """Assert I1 to I4 and I8; the books that were audited."""
    books = Books(database)
    _no_overspend(books)
    _books_balance(books)
    _caps_count(books)
    _each_hold_ended_once(books, holds_may_be_open=holds_may_be_open)
    if upstream is not None:
        _failed_calls_are_free(books, upstream)
        _nothing_without_a_hold(books, upstream)
        _callers_paid_what_they_got(books, upstream, answers)
    return books


def open_holds(database: Path | str) -> int:
    return int(rows(_url(database), "SELECT count(*) FROM holds")[0][0])


def _url(database: Path | str) -> str:
    """A file is SQLite's; PostgreSQL's is named by its URL."""
    return database if isinstance(database, str) else f"sqlite:///{database}"


def _no_overspend(books: Books) -> None:
    """I1: what was spent and what is held is never more than what was granted."""
    granted: Counter[int] = Counter()
    used: Counter[int] = Counter()
    for key, kind, amount, _, _ in books.entries:
        if kind == "spend":
            assert amount <= 0, "a call that adds credits"
            used[key] -= amount
        else:
            granted[key] += amount
    for key, cost, _ in books.holds:
        used[key] += cost
    over = [(name, used[key], granted[key]) for key, name, balance, _ in books.keys if balance is not None]
    assert [row for row in over if row[1] > row[2]] == [], "key, used, granted"


def _books_balance(books: Books) -> None:
    """I2: balance = Σ entries, held = Σ open holds, available never below 0."""
    total: Counter[int] = Counter()
    held: Counter[int] = Counter()
    for key, _, amount, _, _ in books.entries:
        total[key] += amount
    for key, cost, _ in books.holds:
        held[key] += cost
    for key, name, balance, key_held in books.keys:
        assert key_held == held[key], f"{name}: held {key_held}, open holds {held[key]}"
        assert balance is None or balance == total[key], f"{name}: balance {balance}, entries {total[key]}"
        assert balance is None or balance >= key_held, f"{name}: balance {balance}, held {key_held}"


def _caps_count(books: Books) -> None:
    """What counts for a key's spend caps is what it has spent in the month and what it holds. (No test has calls that
    are open as a month ends.)"""
    months = {key: month for key, month, _ in books.caps}
    used: Counter[int] = Counter()
    for key, at, spent in books.times:
        used[key] += spent if at >= months.get(key, 0) else 0
    assert [(key, spent, used[key]) for key, _, spent in books.caps if spent != used[key]] == [], "key, counted, used"


def _each_hold_ended_once(books: Books, *, holds_may_be_open: bool) -> None:
    """I3: no request has two entries, none has an entry and a hold, and no hold is left."""
    ended = Counter(request_id for _, _, _, request_id, _ in books.entries if request_id is not None)
    assert [request_id for request_id, times in ended.items() if times > 1] == [], "ended twice"
    assert sorted(books.held & ended.keys()) == [], "ended, and open"
    assert holds_may_be_open or books.holds == [], "still open"


def _failed_calls_are_free(books: Books, upstream: Upstream) -> None:
    """I4: who was charged was answered usably; whom the upstream failed has an entry of 0 that says why."""
    unanswered = [request_id for request_id in books.charged if not upstream.answered[request_id]]
    assert unanswered == [], "charged, but never answered"
    for request_id, why in upstream.failed.items():
        entry = books.spent.get(request_id)
        if entry is not None:
            assert entry.amount == 0, f"{request_id} was charged, though the upstream failed it ({why})"
            assert entry.reason, f"{request_id} was released without a reason"
        else:
            assert request_id in books.held, f"{request_id} failed ({why}) and has neither entry nor hold"


def _nothing_without_a_hold(books: Books, upstream: Upstream) -> None:
    """I8: what reached the upstream was held for, under the identity the gateway gave it, and reached it once."""
    known = books.spent.keys() | books.held
    assert [request_id for request_id in upstream.arrived if request_id not in known] == [], "forwarded without a hold"
    assert [request_id for request_id, times in upstream.arrived.items() if times > 1] == [], "forwarded twice"
    assert [seen for seen in upstream.seen if not seen.get("x-gateway-key-id")] == [], "forwarded without identity"


def _callers_paid_what_they_got(books: Books, upstream: Upstream, answers: Iterable[Answer]) -> None:
    """I4 from the callers' side: a 200 costs exactly what its head says, anything that failed nothing."""
    price = {seen.request_id: int(seen.get("x-gateway-cost")) for seen in upstream.seen}
    charged = books.charged
    for answer in answers:
        if not answer.status:
            continue
        paid = charged.get(answer.request_id, 0)
        if answer.status >= 500 or answer.status in (401, 402, 403, 429):
            assert paid == 0, f"{answer.request_id} was answered {answer.status} and paid {paid}"
        elif answer.cost is not None:
            assert paid == answer.cost == price[answer.request_id], f"{answer} paid {paid}"
        else:
            # Told in a trailer. If the gateway died before it read that, the whole hold is kept.
            assert paid in {TOLD, price[answer.request_id]}, f"{answer} paid {paid}"
