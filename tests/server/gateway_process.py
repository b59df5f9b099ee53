"""A served gateway as a process of its own: `python -m tests.server.gateway_process '{"workers": 2}'`.

It prints its addresses when it is ready. Its application answers, by path: /pid the worker's process id, /stream/N
N chunks 50 ms apart, /endless chunks until it is stopped, /crash ends the worker at once. `fail` in the options makes
the lifespan fail, `die` makes each worker end before it is ready, `files` is the hard limit of open files, `soft_files`
the soft one.
"""

import asyncio
import json
import os
import resource
import sys

from gateway.config.tree import AdminSection, Config, ServerSection
from gateway.server.serve import run

OPTIONS = json.loads(sys.argv[1])


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    _, verb, *rest = scope["path"].split("/")
    if verb == "crash":
        os._exit(7)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if verb == "stream":
        for number in range(int(rest[0])):
            await send({"type": "http.response.body", "body": b"chunk %d\n" % number, "more_body": True})
            await asyncio.sleep(0.05)
    while verb == "endless":
        await send({"type": "http.response.body", "body": b"chunk\n", "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def lifespan(receive, send):
    await receive()
    if OPTIONS.get("die"):
        os._exit(9)
    if OPTIONS.get("fail"):
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("lifespan ended", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def admin_app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"admin"})


def tell(addresses):
    print(f"ready {addresses.server} {addresses.admin}", flush=True)


if __name__ == "__main__":
    if "files" in OPTIONS:
        files = OPTIONS["files"]
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPTIONS.get("soft_files", files), files))
    server = ServerSection(
        port=OPTIONS.get("port", 0),
        workers=OPTIONS.get("workers", 1),
        drain_timeout_seconds=OPTIONS.get("drain", 10),
        connections_max=OPTIONS.get("connections", 1000),
    )
    config = Config(server=server, admin=AdminSection(port=0) if OPTIONS.get("admin") else None)
    sys.exit(run(config, lambda _: (app, admin_app if OPTIONS.get("admin") else None), on_ready=tell))
