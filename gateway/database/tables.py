"""The tables, as SQLAlchemy Core sees them. Migrations make them (migrations/versions); nothing else may.

What holds at all times, by CHECK where SQL can say it:
- `keys.balance` is the sum of the key's entries, `keys.held` the sum of its open holds; available = balance - held >= 0
  (I1, I2). A NULL balance is an unlimited key.
- A row in `holds` is an open hold. Ending a hold deletes the row; whoever deletes it, and nobody else, writes the
  entry (I3).
- With Unkey, `balance` is the key's pool: credits already debited there and not spent yet. Its allotment is what no
  hold has drawn: balance - held. `unkey_id` is what Unkey calls the key now; `key_id` stays when it is rotated.
- `capped` is 1 where the key has a row in `spend_caps`: calls of all others need not look there.
- `permissions` are names with a space between them; no name has one in it.
- `entries` only grows. A key's entries are chained: `keys.last_entry` is the newest, each entry names the `previous`
  one. History walks the chain by primary key. (An index on (key, id) gives the same answers, but every call then
  touches a page per key: with 32 keys in a batch a call's rows took 31 µs with it and 14 µs without.)
- `entries.reference` is unique: what is granted twice is granted once (I5).
"""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, MetaData, Sequence, Table, text

from gateway.database.types import Id, Word, where

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key_id", Word, nullable=False, unique=True),
    Column("key_hash", LargeBinary, nullable=False, unique=True),
    Column("start", Word, nullable=False),
    Column("user_id", Word, nullable=False),
    Column("name", Word),
    Column("balance", Id),
    Column("held", Id, nullable=False),
    Column("enabled", Id, nullable=False),
    Column("expires_at", Id),
    Column("revoked_at", Id),
    Column("created_at", Id, nullable=False),
    Column("last_entry", Id),
    Column("permissions", Word, nullable=False, server_default=""),
    Column("unkey_id", Word),
    Column("capped", Id, nullable=False, server_default=text("0")),
    CheckConstraint("held >= 0", name="held_not_negative"),
    CheckConstraint("balance IS NULL OR balance >= held", name="available_not_negative"),
    CheckConstraint("length(key_hash) = 32", name="key_hash_is_sha256"),
    Index("keys_by_user", "user_id", "key_id"),
    Index(
        "keys_by_unkey_id",
        "unkey_id",
        unique=True,
        **where("unkey_id IS NOT NULL"),
    ),
    sqlite_strict=True,
)

holds = Table(
    "holds",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("key", Id, nullable=False),
    Column("cost", Id, nullable=False),
    Column("route", Word, nullable=False),
    Column("request_id", Word, nullable=False),
    Column("answered", Id, nullable=False),
    Column("created_at", Id, nullable=False),
    CheckConstraint("cost > 0", name="cost_positive"),
    sqlite_strict=True,
)

entries = Table(
    "entries",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("key", Id, nullable=False),
    Column("previous", Id),
    Column("kind", Word, nullable=False),
    Column("amount", Id, nullable=False),
    Column("balance_after", Id),
    Column("route", Word),
    Column("request_id", Word),
    Column("reason", Word),
    Column("reference", Word),
    Column("created_at", Id, nullable=False),
    CheckConstraint(
        "kind = 'spend' OR kind IN ('signup', 'purchase', 'promo', 'adjustment', 'clawback', 'reinstate')",
        name="kind_known",
    ),
    Index(
        "entries_reference",
        "reference",
        unique=True,
        **where("reference IS NOT NULL"),
    ),
    sqlite_strict=True,
)

instances = Table(
    "instances",
    metadata,
    Column("id", Id, primary_key=True),
    Column("beat", Id, nullable=False),
    Column("started_at", Id, nullable=False),
    Column("batch", Id, nullable=False, server_default=text("0")),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)
"""Processes that may own open holds. `beat` is a counter, not a time: liveness needs no synchronised clocks. `batch` is
the number of the last batch of holds that the process has committed (PostgreSQL: it tells what became of a commit whose
answer was lost)."""

entry_ids = Sequence("entry_ids", metadata=metadata)
"""Of the ledger, on PostgreSQL. On SQLite, with one writer at a time, the next is the last and one."""

HOLDS_PER_INSTANCE = 1 << 40
"""An instance numbers its holds from id * this: the owner of a hold is its id divided by this, and the holds of an
instance are a range of the primary key."""

rate_windows = Table(
    "rate_windows",
    metadata,
    Column("key", Id, primary_key=True, autoincrement=False),
    Column("name", Word, primary_key=True),
    Column("window_ms", Id, primary_key=True, autoincrement=False),
    Column("start", Id, nullable=False),
    Column("count", Id, nullable=False),
    Column("previous", Id, nullable=False),
    CheckConstraint("window_ms > 0 AND count > 0 AND previous >= 0", name="counts_fit"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""How many calls of a key a rate limit has let through: `count` since `start` (Unix milliseconds), `previous` in the
window before. A limit whose window changes counts anew. Rows that say nothing any more are deleted now and then."""

spend_caps = Table(
    "spend_caps",
    metadata,
    Column("key", Id, primary_key=True, autoincrement=False),
    Column("day_cap", Id),
    Column("month_cap", Id),
    Column("day", Id, nullable=False),
    Column("day_spent", Id, nullable=False),
    Column("month", Id, nullable=False),
    Column("month_spent", Id, nullable=False),
    CheckConstraint("day_cap >= 0 AND month_cap >= 0", name="caps_not_negative"),
    CheckConstraint("day_cap IS NOT NULL OR month_cap IS NOT NULL", name="capped"),
    CheckConstraint("day_spent >= 0 AND month_spent >= 0", name="spent_not_negative"),
    sqlite_strict=True,
)
"""What a key may spend in a day and in a month of the UTC calendar (NULL: as much as it has), and what it has spent in
the day and the month that begin at `day` and `month` (Unix milliseconds), with what its open holds took there. Both are
counted for every key that has a row here."""

requests = Table(
    "requests",
    metadata,
    Column("lookup", LargeBinary, primary_key=True),
    Column("identity", LargeBinary, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("owner", LargeBinary),
    Column("owned_until", Id, nullable=False),
    Column("key_id", Word),
    Column("status", Id),
    Column("answer", LargeBinary),
    Column("created_at", Id, nullable=False),
    CheckConstraint("(status IS NULL) = (answer IS NULL)", name="answered_or_not"),
    CheckConstraint("(owner IS NULL) = (status IS NOT NULL)", name="owned_until_answered"),
    Index("requests_by_identity", "identity", "created_at"),
    Index("requests_by_age", "created_at"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Requests to the control plane that came with an Idempotency-Key (api/idempotency.py). `lookup` is a hash of that key,
`identity` of who sent it, `fingerprint` of what was asked. Until there is an `answer` (encrypted: it may hold an API
key's secret) it is worked on by `owner`, who says so again before `owned_until`; `key_id` is the key it has made so
far. Times are Unix milliseconds."""

answers = Table(
    "answers",
    metadata,
    Column("lookup", LargeBinary, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("hold", Id, nullable=False),
    Column("done", Id, nullable=False, server_default=text("0")),
    Column("answer", LargeBinary),
    Column("size", Id, nullable=False, server_default=text("0")),
    Column("expires_at", Id, nullable=False),
    CheckConstraint("done = 1 OR (answer IS NULL AND size = 0)", name="answered_when_done"),
    Index("answers_by_age", "expires_at", "size"),
    sqlite_strict=True,
)
"""Metered calls that came with an Idempotency-Key (credits/claims.py). `lookup` names that caller's Idempotency-Key,
`fingerprint` what was asked: whoever has the database can't guess at either, for both are made with the API key. Until
it is `done` a call is as alive as its `hold` is open. `answer` is encrypted; NULL where it was not kept. `size` is its
length: how much there is in all is read from the index. `expires_at` is Unix milliseconds."""

# With Unkey as the provider

unkey_holds = Table(
    "unkey_holds",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("key", Id, nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("cost", Id, nullable=False),
    Column("drawn", Id, nullable=False),
    Column("asked", Id, nullable=False),
    Column("route", Word, nullable=False),
    Column("request_id", Word, nullable=False),
    Column("answered", Id, nullable=False),
    Column("created_at", Id, nullable=False),
    CheckConstraint("cost > 0 AND drawn >= 0 AND asked >= 0 AND drawn + asked <= cost", name="parts_fit"),
    sqlite_strict=True,
)
"""Open holds of the unkey provider, written before Unkey is asked. `drawn` is what the key's pool gives (it is in
`keys.held`), `asked` what Unkey was asked for and has not been heard to give: if the process dies, that is in doubt.
`key` is 0 while the key has never been seen."""

doubts = Table(
    "doubts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", Id, nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("amount", Id, nullable=False),
    Column("route", Word, nullable=False),
    Column("request_id", Word, nullable=False),
    Column("cause", Word, nullable=False),
    Column("created_at", Id, nullable=False),
    Column("resolution", Word),
    Column("resolved_at", Id),
    CheckConstraint("amount > 0", name="amount_positive"),
    CheckConstraint("resolution IS NULL OR resolution IN ('applied', 'not-applied')", name="resolution_known"),
    Index("doubts_open", "id", **where("resolution IS NULL")),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)
"""Credits that Unkey may or may not have taken: it was asked, and no answer came. Their calls were never served."""

grants = Table(
    "grants",
    metadata,
    Column("id", Id, primary_key=True),
    Column("key", Id, nullable=False),
    Column("entry", Id, nullable=False),
    Column("amount", Id, nullable=False),
    Column("state", Word, nullable=False),
    Column("owner", Id),
    Column("attempts", Id, nullable=False),
    Column("due_at", Id, nullable=False),
    Column("sent_at", Id),
    Column("remaining_before", Id),
    Column("remaining_after", Id),
    Column("pool_before", Id),
    Column("last_entry_before", Id),
    Column("uncertain_before", Id),
    Column("cause", Word),
    Column("created_at", Id, nullable=False),
    Column("updated_at", Id, nullable=False),
    CheckConstraint("amount <> 0", name="amount_not_zero"),
    CheckConstraint("state IN ('pending', 'sending', 'in_doubt', 'applied', 'failed')", name="state_known"),
    Index(
        "grants_unsettled",
        "key",
        "id",
        **where("state IN ('pending', 'sending', 'in_doubt')"),
    ),
    sqlite_strict=True,
    sqlite_autoincrement=True,
)
"""Entries of the ledger on their way to Unkey. Unkey has no idempotency keys: one at a time for each key, never sent
again while it is unknown whether it took effect."""

retired_keys = Table(
    "retired_keys",
    metadata,
    Column("unkey_id", Word, primary_key=True),
    Column("key", Id, nullable=False),
    Column("key_hash", LargeBinary, nullable=False),
    Column("retired_at", Id, nullable=False),
    Index("retired_keys_by_hash", "key_hash"),
    sqlite_strict=True,
)
"""What Unkey called our keys before they were rotated, and their secrets then. Its caches may go on answering for them;
we don't."""
