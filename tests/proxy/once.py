"""Calls with an Idempotency-Key, and what is kept of them."""

from __future__ import annotations

import sqlite3

from tests.server.harness import wait_until

KEY = b"Idempotency-Key: create-7"


def post(account, target, *, key=KEY, body=b'{"n":1}', headers=(), method="POST"):
    return account.ask(target, method, headers=(key, *headers) if key else headers, body=body)


def is_replay(answer) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


def wait_kept(account, done=True, answer=True):
    """Until the one record there is says so."""

    def looks_so():
        connection = sqlite3.connect(account.proxy.path)
        rows = connection.execute("SELECT done, answer IS NOT NULL FROM answers ORDER BY rowid DESC LIMIT 1").fetchall()
        connection.close()
        return rows == [(int(done), int(answer))]

    wait_until(looks_so)
