"""The credits that a new user gets, once: whatever is retried or raced, however many keys are made."""

from __future__ import annotations

from gateway.credits.provider import CreditsProvider
from gateway.errors import Conflict

REFERENCE_PREFIX = "signup:"


class Signup:
    """Grants `credits` once per user.

    The reference `signup:{user_id}` is unique in SQL, and that is all there is to it: whoever comes second, on
    whichever replica, is told of a conflict. A process that dies between making a key and granting has granted nothing,
    and the user's next key gets them.
    """

    def __init__(self, provider: CreditsProvider, credits: int) -> None:
        self._provider = provider
        self._credits = credits

    async def grant(self, user_id: str, key_id: str) -> int:
        """Give the key what its user gets once. Returns the credits; 0 if the user had them before."""
        if not self._credits:
            return 0
        try:
            await self._provider.grant(
                key_id, self._credits, "signup", "a new user's free credits", REFERENCE_PREFIX + user_id
            )
        except Conflict:
            return 0
        return self._credits
