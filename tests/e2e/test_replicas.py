"""Two replicas of two workers each on one PostgreSQL: I1 in a crowd."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.audit import audit
from tests.e2e.caller import request
from tests.e2e.harness import COMMAND, Gateway, allow_many_sockets, gateway, settings
from tests.e2e.test_concurrency import CREDITS, assert_exactly, call_at_once
from tests.e2e.upstream import Upstream


@contextlib.contextmanager
def replicas(directory: Path, url: str, target: str, **sections) -> Iterator[list[Gateway]]:
    server = {"workers": 2, "watch_config": False}
    config = settings(directory, target, server=server, database={"url": url}, **sections)
    with gateway(directory, config, name="one") as one, gateway(directory, config, name="two") as two:
        yield [one, two]


def migrate(directory: Path, url: str) -> subprocess.Popen[bytes]:
    file = directory / "migrate.yaml"
    file.write_text(f"database: {{url: '{url}'}}")
    return subprocess.Popen([COMMAND, "migrate", "-c", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_replicas_want_a_migrated_database_and_sell_exactly_what_the_credits_pay_for(tmp_path, postgres):
    allow_many_sockets()
    url = postgres.create(template="template1")
    with Upstream() as upstream, replicas(tmp_path, url, upstream.url) as both:
        refused = subprocess.run([COMMAND, "serve", "-c", both[0].config_file], capture_output=True, check=False)
        assert refused.returncode == 1
        assert b"gateway migrate" in refused.stderr
        assert [done.wait(60) for done in [migrate(tmp_path, url), migrate(tmp_path, url)]] == [0, 0]
        key, key_id = both[0].create_key(CREDITS)
        for one in both:
            one.start()
        answers = asyncio.run(call_at_once([one.port for one in both], request(key, "slow")))
        assert_exactly(10, answers, upstream)
        assert [one.stop() for one in both] == [0, 0]
        assert audit(url, upstream, answers).available(key_id) == 0
