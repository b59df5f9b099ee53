"""The control plane over real sockets: behind the data plane, as callers meet it, in a thread of its own."""

from __future__ import annotations

from gateway.observe.health import Readiness, healthz
from gateway.observe.ids import RequestIds
from gateway.observe.metrics import Metrics
from gateway.proxy.endpoint import Endpoint
from gateway.proxy.headers import HeadReader
from gateway.proxy.routes import RouteTable
from tests.api.harness import Api, open_api
from tests.server.harness import Server


class ApiServer(Server):
    """`api` is what answers; `url` where."""

    api: Api

    def __init__(self, ledger):
        super().__init__(self._answer)
        self._ledger = ledger
        readiness = Readiness([])
        self._own = {b"/healthz": healthz, b"/readyz": readiness.readyz}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _answer(self, scope, receive, send):
        await self._own.get(scope["raw_path"], self._endpoint)(scope, receive, send)

    async def _serve(self):
        async with open_api(self._ledger) as self.api:
            self._endpoint = Endpoint(
                RouteTable([]),
                self.api.provider,
                HeadReader(),
                RequestIds(),
                Metrics(None),
                fallback=self.api.control,
            )
            await super()._serve()
