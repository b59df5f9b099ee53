"""Webhook endpoints: where events are sent, and the secrets that sign them."""

from __future__ import annotations

import secrets
from typing import Any

from gateway.sandbox.stripe.database import Database, Document, with_metadata
from gateway.sandbox.stripe.events import API_VERSION

EVERY_EVENT = "*"


class Endpoints:
    """Endpoints, with their signing secrets beside them: those are shown once, when an endpoint is made."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secrets: dict[str, tuple[str, ...]] = {}

    def create(self, asked: dict[str, Any]) -> Document:
        """As the API does it: the answer shows the secret."""
        endpoint = self.add(asked["url"], (f"whsec_{secrets.token_hex(16)}",))
        endpoint.update(
            enabled_events=asked["enabled_events"],
            api_version=asked.get("api_version", API_VERSION),
            description=asked.get("description"),
        )
        with_metadata(endpoint, asked.get("metadata", {}))
        return {**endpoint, "secret": self._secrets[endpoint["id"]][0]}

    def add(self, url: str, signing_secrets: tuple[str, ...]) -> Document:
        """An endpoint for every event. With several secrets deliveries carry several signatures, as while rolling."""
        endpoint = self._database.new(
            "webhook_endpoint", "we_1", url=url, enabled_events=[EVERY_EVENT], api_version=API_VERSION
        )
        self._database.webhook_endpoints.add(endpoint)
        self._secrets[endpoint["id"]] = signing_secrets
        return endpoint

    def roll(self, endpoint_id: str, signing_secrets: tuple[str, ...]) -> None:
        """Sign with these from now on. Raises Refusal for an unknown endpoint."""
        self._secrets[self._database.webhook_endpoints.get(endpoint_id)["id"]] = signing_secrets

    def update(self, endpoint: Document, asked: dict[str, Any]) -> Document:
        for name in ("url", "enabled_events", "description"):
            if name in asked:
                endpoint[name] = asked[name]
        if "disabled" in asked:
            endpoint["status"] = "disabled" if asked["disabled"] else "enabled"
        with_metadata(endpoint, asked.get("metadata", {}))
        return endpoint

    def delete(self, endpoint: Document) -> Document:
        self._database.webhook_endpoints.remove(endpoint["id"])
        del self._secrets[endpoint["id"]]
        return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}

    def secrets_of(self, endpoint: Document) -> tuple[str, ...]:
        return self._secrets.get(endpoint["id"], ())

    def wanting(self, kind: str) -> list[Document]:
        """The endpoints that are to get events of that kind."""
        return [
            endpoint
            for endpoint in self._database.webhook_endpoints
            if endpoint["status"] == "enabled" and not {EVERY_EVENT, kind}.isdisjoint(endpoint["enabled_events"])
        ]
