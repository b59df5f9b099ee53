"""How the hold of a call ends: settled or released, by what became of the call.

Nothing is awaited while an error is handled (setup.py says why). So the error is handed over, and handed back when the
hold has ended: `raise await endings.unanswered(…, error)`.
"""

from __future__ import annotations

from asyncio import CancelledError

from gateway.credits.provider import CreditsProvider, Hold
from gateway.errors import CreditsUnavailable, GatewayError, UpstreamError
from gateway.proxy.call import KEPT, Call
from gateway.proxy.once import Once
from gateway.proxy.route import Route
from gateway.proxy.settlement import told_cost
from gateway.upstreams.transport import Headers, UpstreamRequest, UpstreamResponse

CLIENT_ABORT = "client_abort"


class Endings:
    """Ends the holds of calls at their provider. What was queued there happens, also if the wait is cancelled."""

    def __init__(self, provider: CreditsProvider) -> None:
        self._provider = provider

    async def end(self, call: Call, cost: int, word: str, reason: str | None = None) -> None:
        """End the call's hold, keeping `cost`; `word` says why, where that is not the call's success."""
        hold = call.hold
        if hold is None:
            return
        call.cost = cost
        if call.once is not None:
            await self._end_once(call, hold, call.once, cost, word, reason)
        elif cost:
            call.verdict = "settled"
            await self._provider.settle(hold, cost, word or None)
        elif hold.cost:
            call.released = word or "used_nothing"
            call.verdict = f"released:{call.released}"
            await self._provider.release(hold, reason or call.released)
        else:
            call.verdict = "free"

    async def _end_once(self, call: Call, hold: Hold, once: Once, cost: int, word: str, reason: str | None) -> None:
        """The same for what is done once: it is done with its hold, or nothing is left of it."""
        call.verdict = "settled"
        if not cost:
            call.released = word or "used_nothing"
            call.verdict = f"released:{call.released}"
            reason = reason or call.released
        once.claim.is_void = bool(word) and not cost
        await self._provider.settle(hold, cost, reason or word or None, once.claim)
        once.is_done = not once.claim.is_void

    async def keep(self, call: Call, hold: Hold, cost: int) -> None:
        """The answer is under way, and what it costs in the end, `cost` at most, is known only then."""
        call.cost = cost
        call.verdict = KEPT
        if call.once is None:
            await self._provider.keep(hold)
        else:
            await self._provider.keep(hold, call.once.claim)
            call.once.is_done = True

    async def end_kept(self, call: Call, route: Route, trailers: Headers) -> None:
        told = told_cost(route, trailers, call.request_id) if route.settle_header else None
        await self.end(call, call.cost if told is None else told, "")

    async def unanswered(
        self, call: Call, route: Route, request: UpstreamRequest, error: BaseException
    ) -> BaseException:
        """There is no answer, because of `error`."""
        if isinstance(error, UpstreamError):
            kept = error.possibly_executed and error.reason not in route.release_on
            await self.end(call, route.cost if kept else 0, error.reason)
            error.members["released"] = not kept
        elif isinstance(error, CancelledError):
            # The caller left (or the drain limit struck: then there is a message, and the failure is ours).
            kept = request.is_sent and CLIENT_ABORT not in route.release_on and not error.args
            await self.end(call, route.cost if kept else 0, CLIENT_ABORT)
        else:
            # Its body broke off or was too long, so the upstream never had a whole request; or a defect of ours.
            await self.end(call, 0, "body" if isinstance(error, GatewayError | OSError) else "defect")
        return error

    async def undecided(
        self, call: Call, route: Route, response: UpstreamResponse, error: BaseException
    ) -> BaseException:
        """There is an answer that could not be settled or released, because of `error`: so it is not served."""
        await response.aclose()
        if isinstance(error, CreditsUnavailable):
            call.cost = 0
            error.members["released"] = True
        elif call.verdict == KEPT:  # the caller left while it was being written; nobody else would end the hold
            await self._end_left(call, route)
        elif isinstance(error, Exception) and not call.verdict:
            await self.end(call, 0, "defect")
        return error

    async def broken(self, call: Call, route: Route, response: UpstreamResponse, error: BaseException) -> BaseException:
        """The caller gets no more of the answer, because of `error`."""
        try:
            await response.aclose()
        except BaseException as failure:  # noqa: BLE001 - it is what goes on now, when the hold has ended
            error = failure
        if call.verdict == KEPT:
            await self._end_left(call, route)
        return error

    async def _end_left(self, call: Call, route: Route) -> None:
        await self.end(call, 0 if CLIENT_ABORT in route.release_on else call.cost, CLIENT_ABORT)
