"""The control plane in this process, on a real database and provider, with keys of an app and billing of our own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.api.background import Background
from gateway.api.build import described
from gateway.api.control_plane import ControlPlane
from gateway.api.description import Description
from gateway.api.idempotency import Idempotency
from gateway.api.identity import Identifier
from gateway.api.jwks import Jwks
from gateway.api.tokens import TokenReader
from gateway.api.visit import Recorder
from gateway.config.tree import Config, JwtSection
from gateway.database.engine import open_database
from gateway.errors import BadRequest, Invalid
from gateway.observe.ids import RequestIds
from gateway.observe.metrics import Metrics

ADMIN_TOKEN = "the-admin-token-of-these-tests"
ISSUER = "https://app.example.com"
AUDIENCE = "gateway"
JWKS_URL = "https://app.example.com/jwks.json"
SIGNUP_CREDITS = 100
CONFIG: dict[str, Any] = {
    "credits": {"signup_credits": SIGNUP_CREDITS},
    "identity": {"admin_token": ADMIN_TOKEN, "jwt": {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": JWKS_URL}},
    "upstreams": {"a": {"targets": ["http://127.0.0.1:9000"]}},
    "routes": [
        {"path": "/v1/x", "methods": ["POST"], "upstream": "a", "cost": 5},
        {"path": "/v1/y", "methods": ["POST"], "upstream": "a", "cost": {"hold": 20, "settle": "X-Used"}},
        {"path": "/status", "methods": ["GET"], "upstream": "a", "public": True},
    ],
    "billing": {"packs": [{"id": "s", "name": "Small", "credits": 100, "price_cents": 500, "currency": "usd"}]},
}


def _make_keys() -> tuple[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey]:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048), ec.generate_private_key(ec.SECP256R1())


@functools.cache
def _known_keys() -> tuple[rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey]:
    """Made once: to find the primes takes longer than most of these tests."""
    return _make_keys()


@functools.cache
def _description() -> Description:
    """The same for every config, and as slow to make."""
    return Description(described(Config(), None, None))


class App:
    """Whose users come with tokens: its keys, and the JWKS that it publishes."""

    def __init__(self, *, is_stranger: bool = False) -> None:
        """A stranger has keys of its own, under the same names."""
        self.rsa, self.ec = _make_keys() if is_stranger else _known_keys()
        self.published: list[dict[str, Any]] = [
            {**jwt.algorithms.RSAAlgorithm.to_jwk(self.rsa.public_key(), as_dict=True), "kid": "r1", "use": "sig"},
            {**jwt.algorithms.ECAlgorithm.to_jwk(self.ec.public_key(), as_dict=True), "kid": "e1", "use": "sig"},
        ]
        self.fetches = 0
        self.fails = False

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == JWKS_URL
        self.fetches += 1
        return httpx.Response(503) if self.fails else httpx.Response(200, json={"keys": self.published})

    def claims(self, user: str = "alice", **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"sub": user, "iss": ISSUER, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 300, **changes}
        return {name: value for name, value in claims.items() if value is not ...}

    def token(self, user: str = "alice", *, kid: str | None = "r1", headers: Any = None, **changes: Any) -> str:
        key, algorithm = (self.ec, "ES256") if kid == "e1" else (self.rsa, "RS256")
        head = {**({"kid": kid} if kid is not None else {}), **(headers or {})}
        return jwt.encode(self.claims(user, **changes), key, algorithm, headers=head)


@dataclass
class Pack:
    id: str = "s"
    name: str = "Small"
    credits: int = 100
    price_cents: int = 500
    currency: str = "usd"


@dataclass
class Checkout:
    order_id: str
    checkout_id: str
    url: str


@dataclass
class Order:
    id: str
    user_id: str
    key_id: str
    pack: str
    quantity: int
    credits: int
    currency: str = "usd"
    amount_cents: int = 500
    state: str = "open"
    clawed: int = 0
    checkout_id: str | None = "cs_1"
    created_at: int = 1_795_000_000_000
    updated_at: int = 1_795_000_000_000


@dataclass
class FakeBilling:
    """Sells without a payment provider. A signature is `good`; `failure` is raised by everything."""

    packs: list[Pack] = field(default_factory=lambda: [Pack()])
    orders: dict[str, Order] = field(default_factory=dict)
    attempts: dict[str, str] = field(default_factory=dict)
    received: list[bytes] = field(default_factory=list)
    failure: Exception | None = None

    async def checkout(self, *, user_id: str, key_id: str, pack: str, quantity: int, attempt: str | None) -> Checkout:
        self._fail()
        if pack not in {known.id for known in self.packs}:
            raise Invalid("There is no such pack.", errors={"pack": "unknown"})
        if quantity > 10:
            raise Invalid("Too many.", errors={"quantity": "10 at most"})
        order_id = self.attempts.get(attempt or "", f"ord_{len(self.orders) + 1}")
        if attempt is not None:
            self.attempts[attempt] = order_id
        self.orders[order_id] = Order(order_id, user_id, key_id, pack, quantity, 100 * quantity)
        return Checkout(order_id, "cs_1", f"https://pay.example.com/{order_id}")

    async def order(self, order_id: str) -> Order | None:
        self._fail()
        return self.orders.get(order_id)

    async def receive(self, body: bytes, signature: str) -> None:
        self._fail()
        if signature != "good":
            raise BadRequest("The signature is not Stripe's.")
        self.received.append(body)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


class Answer:
    """What came back."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.body = response.content

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def slug(self) -> str:
        """Which problem it is; every problem is checked for its shape on the way."""
        problem = self.json
        assert self.headers["content-type"] == "application/problem+json", self.body
        assert problem["status"] == self.status
        assert problem["source"] == "gateway"
        assert problem["instance"].startswith("req_")
        if "idempotency-replayed" not in self.headers:
            assert problem["instance"] == self.headers["x-request-id"]
        return str(problem["type"]).rpartition(":")[2]

    @property
    def errors(self) -> dict[str, str]:
        assert (self.status, self.slug) == (422, "invalid"), self.body
        errors: dict[str, str] = self.json["errors"]
        return errors


class Api:
    """One process's control plane. `call("POST /api-keys", {…}, admin=True)`."""

    def __init__(
        self,
        provider: Any,
        control: ControlPlane,
        background: Background,
        app: App,
        billing: FakeBilling | None,
        metrics: Metrics,
    ):
        self.provider = provider
        self.control = control
        self.background = background
        self.app = app
        self.billing = billing
        self.metrics = metrics
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(control), base_url="http://gateway.test")

    async def call(
        self,
        what: str,
        document: Any = None,
        *,
        admin: bool = False,
        user: str | None = None,
        key: str | None = None,
        once: str | None = None,
        headers: Any = None,
        content: bytes | None = None,
    ) -> Answer:
        method, _, target = what.partition(" ")
        sent = list((headers or {}).items()) if not isinstance(headers, list) else list(headers)
        if admin:
            sent.append(("authorization", f"Bearer {ADMIN_TOKEN}"))
        if user is not None:
            sent.append(("authorization", f"Bearer {self.app.token(user)}"))
        if key is not None:
            sent.append(("x-api-key", key))
        if once is not None:
            sent.append(("idempotency-key", once))
        if document is not None:
            content = json.dumps(document).encode()
            sent.append(("content-type", "application/json"))
        return Answer(await self.client.request(method, target, headers=sent, content=content))

    async def new_key(self, user: str = "alice", **document: Any) -> dict[str, Any]:
        answer = await self.call("POST /api-keys", {"user_id": user, **document}, admin=True)
        assert answer.status == 201, answer.body
        return dict(answer.json)


@contextlib.asynccontextmanager
async def open_api(
    ledger: Any, *, selling: bool = True, lease_seconds: float = 15.0, config: Any = None, log: Any = None
):
    """A control plane on that ledger (tests/credits), as one more process would be."""
    async with contextlib.AsyncExitStack() as stack:
        provider = await stack.enter_async_context(ledger.provider())
        database = open_database(ledger.url)
        stack.push_async_callback(database.aclose)
        loaded = Config.model_validate({**CONFIG, **(config or {})})
        app, billing = App(), FakeBilling() if selling else None
        client = httpx.AsyncClient(transport=httpx.MockTransport(app.answer))
        jwks = Jwks(JWKS_URL, client=client)
        stack.push_async_callback(jwks.aclose)
        tokens = TokenReader(JwtSection(issuer=ISSUER, audience=AUDIENCE, jwks_url=JWKS_URL), jwks)
        metrics = Metrics(None)
        stack.callback(metrics.close)
        operations = [*described(loaded, provider, billing), *_description().operations()]
        background = Background()
        control = ControlPlane(
            operations,
            Identifier(provider, loaded.identity.admin_token.get_secret_value(), tokens),
            Idempotency(database, lease_seconds=lease_seconds),
            RequestIds(),
            Recorder({operation.path for operation in operations}, metrics, log),
            background,
        )
        stack.push_async_callback(background.aclose)
        api = Api(provider, control, background, app, billing, metrics)
        stack.push_async_callback(api.client.aclose)
        yield api


async def gather(count: int, call: Any) -> list[Answer]:
    return list(await asyncio.gather(*(call(number) for number in range(count))))
