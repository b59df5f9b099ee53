"""The door knows the journal of the app behind it, and the journal the door."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from gateway.app import create_app
from gateway.config.load import parse_config
from gateway.server.intake import Intake


def test_the_door_counts_what_the_journal_has_to_do_and_hears_when_it_has_room(tmp_path):
    async def main():
        config = parse_config(f"database: {{url: 'sqlite:///{tmp_path}/gateway.db'}}".encode(), {})
        app, _ = create_app(config)
        intake = Intake(asyncio.get_running_loop(), 1, lambda: 0)
        app.watch(SimpleNamespace(gauges=list, refusals={}, intake=intake))
        messages, said = asyncio.Queue(), asyncio.Queue()
        messages.put_nowait({"type": "lifespan.startup"})
        lifespan = asyncio.ensure_future(app({"type": "lifespan"}, messages.get, said.put))
        assert (await said.get())["type"] == "lifespan.startup.complete"
        assert intake.backlog.on_room == intake.on_room
        messages.put_nowait({"type": "lifespan.shutdown"})
        await lifespan

    asyncio.run(main())
