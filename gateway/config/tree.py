"""The config tree: every section, key, default and unit of config.yaml; those of upstreams are in upstream.py.

Closed (an unknown key is an error) and frozen. What a field means is said by its docstring-description: the JSON
Schema, docs/config.md and `gateway schema` come from here. Loading with positions is in load.py, checks across
fields are in check.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from gateway.config.section import Bytes, Credits, Port, Seconds, Secret, Section, Text
from gateway.config.upstream import (
    EjectionSection,
    HealthCheckSection,
    RetriesSection,
    TargetSection,
    TlsSection,
    UpstreamSection,
)

__all__ = [
    "EjectionSection",
    "HealthCheckSection",
    "RetriesSection",
    "Section",
    "TargetSection",
    "TlsSection",
    "UpstreamSection",
]
"""What others may take from here though it is written elsewhere."""

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
ReleaseReason = Literal["unreachable", "timeout", "5xx", "4xx", "client_abort"]


def _no_default(schema: dict[str, Any]) -> None:
    """For what may be absent but not written like that."""
    schema.pop("default", None)


class ServerSection(Section):
    """Where the gateway listens, and the limits of what it reads."""

    host: Text = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: Port = 8080
    """TCP port; 0 takes a free one."""
    workers: Annotated[int, Field(strict=True, ge=1, le=256)] = 1
    """Processes that share the port. One core each."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks whose X-Forwarded-* headers are believed and appended to."""
    connections_max: Annotated[int, Field(strict=True, ge=1)] = 10_000
    """Open connections per worker, as far as the limit of open files goes; more are answered 503."""
    calls_max: Annotated[int, Field(strict=True, ge=1)] = 10_000
    """Calls in flight per worker; more are answered 503. A worker that has more to do than it can refuses sooner."""
    head_timeout_seconds: Seconds = 10
    """A request's head must be complete in this time."""
    head_max_bytes: Bytes = 16_384
    """Request line and all header fields together."""
    head_max_fields: Annotated[int, Field(strict=True, ge=1)] = 100
    """Number of header fields."""
    uri_max_bytes: Bytes = 8_192
    """Length of the request target."""
    body_max_bytes: Bytes = 10_485_760
    """Request body; a route may set its own."""
    body_idle_timeout_seconds: Seconds = 30
    """Longest silence while a request body is read."""
    body_min_bytes_per_second: Annotated[int, Field(strict=True, ge=0)] = 500
    """Slowest pace of a request body: below it for body_idle_timeout_seconds is answered 408. 0: any pace will do."""
    write_timeout_seconds: Seconds = 30
    """Longest time a caller may take no byte of the answer that waits for it."""
    keep_alive_timeout_seconds: Seconds = 75
    """How long an idle connection is kept."""
    drain_timeout_seconds: Seconds = 30
    """On SIGTERM, how long running calls may take to finish."""
    timing_headers: bool = False
    """Tell callers where the time went: X-Gateway-Time-Ms and Server-Timing."""
    watch_config: bool = True
    """Look at this file and its secret files every second, and take what is different. SIGHUP works in any case."""


class AdminSection(Section):
    """The separate listener of ops: metrics, the config in force, open holds, reload. It asks for no password. Never
    expose it to callers."""

    host: Text = "127.0.0.1"
    """Address to listen on."""
    port: Port = 9464
    """TCP port; 0 takes a free one."""
    hosts: tuple[Text, ...] = ()
    """Names by which it may be asked, besides addresses and localhost: gateway.internal, as Prometheus knows it."""


class DatabaseSection(Section):
    """Where keys, holds and the ledger are kept."""

    url: SecretStr = SecretStr("sqlite:///data/gateway.db")
    """sqlite:///path.db, sqlite:////absolute/path.db, or postgresql://user:password@host/database."""
    keep_days: Annotated[int, Field(strict=True, ge=1, le=3_650)] = 90
    """How long Stripe's events and notifications are kept once they are done with. Orders and the ledger stay."""


class UnkeySection(Section):
    """Unkey as the keeper of keys and credits."""

    api_id: Text
    """The API's id at Unkey (api_…)."""
    root_key: Secret
    """A root key that may verify keys of this API; without admin_root_key it administers them too."""
    admin_root_key: Annotated[SecretStr | None, Field(min_length=1)] = None
    """A root key that may create, read, update and delete keys. Then root_key needs only verify_key."""
    canary_key: Annotated[SecretStr | None, Field(min_length=1)] = None
    """An API key that is always there. Not found, it tells that the root key may not verify: then /readyz is red."""
    base_url: str = "https://api.unkey.com"
    """Unkey's address."""
    verify_timeout_seconds: Annotated[float, Field(gt=0.2, le=30, allow_inf_nan=False)] = 2
    """Longest wait for the verification of a call; then 503."""
    write_timeout_seconds: Annotated[float, Field(gt=0.2, le=120, allow_inf_nan=False)] = 10
    """Longest wait for Unkey when keys are made or credits are moved."""
    connections_max: Annotated[int, Field(strict=True, ge=1, le=4096)] = 256
    """Connections to Unkey per worker."""


class CreditsSection(Section):
    """Who keeps keys and balances, and how holds are looked after."""

    provider: Literal["local", "unkey"] = "local"
    """local: the gateway's own database. unkey: Unkey's API."""
    signup_credits: Credits = 100
    """Credits a new user gets, once."""
    hold_timeout_seconds: Seconds = 1.5
    """Longest wait for the store when a key is checked; then 503. With what a call waits before that while nobody knows
    that the store is away, this makes two seconds."""
    heartbeat_seconds: Seconds = 5
    """How often a process says that it is alive."""
    dead_after_seconds: Seconds = 20
    """A process silent for so long is dead: a survivor ends its holds."""
    unkey: UnkeySection | None = None
    """Needed with provider: unkey."""


class JwtSection(Section):
    """The app's own tokens, so that its users can manage their keys."""

    issuer: Text
    """What `iss` must be, to the letter."""
    audience: Text
    """What `aud` must name."""
    jwks_url: Text
    """Where the app's public keys are."""


class IdentitySection(Section):
    """Who may use the control plane."""

    admin_token: SecretStr = SecretStr("")
    """The app's back end and ops. Empty: nobody is admin."""
    jwt: JwtSection | None = None
    """Absent: no JWT is accepted."""
    keys_per_user_max: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 100
    """API keys that a user may have at a time, without the revoked ones. The command line may make more."""
    cors_origins: tuple[str, ...] = ()
    """Origins (https://app.example.com, or "*") whose web pages may use the control plane. None: no page may."""


class SettledCost(Section):
    """A cost that the upstream tells."""

    hold: Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
    """Credits taken before the call: the most it can cost."""
    settle: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$", examples=["X-Credits-Used"])]
    """Response header, or trailer when streaming, that tells the real cost."""


class RateLimitSection(Section):
    """How often a key, or an address, may call a route."""

    limit: Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
    """Calls in a window."""
    window_seconds: Annotated[int, Field(strict=True, ge=1, le=2_592_000)]
    """The window's length; 30 days at most."""


class IdempotencySection(Section):
    """A call that is repeated with its Idempotency-Key is charged once, and answered alike."""

    keep_seconds: Annotated[int, Field(strict=True, ge=60, le=604_800)] = 86_400
    """How long a repeat is known as one; 7 days at most."""
    answer_max_bytes: Annotated[int, Field(strict=True, ge=0, le=1_048_576)] = 65_536
    """Largest body of an answer that is kept. A repeat of a call with a larger one is told that it was done."""
    body_max_bytes: Annotated[int, Field(strict=True, ge=0, le=1_048_576)] = 65_536
    """Largest request body that may come with an Idempotency-Key: it is in memory whole before the key is checked."""


class RouteSection(Section):
    """What is sold: a path, where it goes, what it costs."""

    path: Annotated[str, Field(examples=["/v1/personas"])]
    """Literal, or with {name} for a segment and a last {name:path} for the rest."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1, examples=[["POST"]])]
    """Methods that match."""
    upstream: str
    """Name of the upstream."""
    cost: Credits | SettledCost | None = None
    """Credits per call. 0: a key is needed, the call is free."""
    # Neither empty nor null may be written: a variable that is set to nothing must not open the route to every key.
    permission: str = Field("", min_length=1, examples=["personas.write AND (eu OR us)"], json_schema_extra=_no_default)
    """Permissions that the key must have, else 403: names, AND, OR and parentheses; AND binds tighter."""
    rate_limit: RateLimitSection | None = None
    """How often a key may call the route, in a window that slides; then 429. Absent: no limit."""
    rate_limit_per_address: RateLimitSection | None = None
    """How often one client address (of IPv6: one /64) may call the route, with a key or without; then 429. Each worker
    counts for itself."""
    concurrency_per_key: Annotated[int | None, Field(strict=True, ge=1, le=1_000_000)] = None
    """How many calls of one key may run at a time; then 429. Each worker counts for itself."""
    timeout_seconds: Seconds | None = None
    """Longest time from the credits taken to the answer's head, the request's body included; then 504. Absent: only the
    upstream's own timeouts."""
    public: bool = False
    """No key, no credits."""
    release_on: tuple[ReleaseReason, ...] = ("unreachable", "timeout", "5xx")
    """Outcomes that give the credits back."""
    body_max_bytes: Bytes | None = None
    """Instead of the server's limit."""
    strip_prefix: str = ""
    """Taken off the front of the path before it is forwarded."""
    idempotency: IdempotencySection | None = None
    """Honour Idempotency-Key. Absent: the header goes to the upstream, as any other."""
    websocket: bool = False
    """Let WebSocket upgrades through; the credits are taken at the handshake."""


class PackSection(Section):
    """Credits for sale."""

    id: Text
    """The pack's name in `POST /checkout`; stays the same for ever."""
    name: Text
    """What the buyer reads."""
    credits: Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
    """Credits in one pack."""
    price_cents: Annotated[int, Field(strict=True, ge=1, le=99_999_999)]
    """Price of one pack in the currency's smallest unit."""
    currency: Annotated[str, Field(pattern=r"^[a-z]{3}$", examples=["usd"])]
    """ISO 4217 code in lower case."""


class StripeSection(Section):
    """Stripe, where credits are bought by card."""

    secret_key: Secret
    """rk_… (restricted, better) or sk_…: what the gateway calls Stripe with."""
    publishable_key: SecretStr = SecretStr("")
    """pk_…: for pages that embed Stripe's own form."""
    webhook_secret: Secret
    """whsec_…: what Stripe signs its webhooks with."""
    webhook_secrets: tuple[Secret, ...] = ()
    """More of them: the old one while it is rolled, another endpoint's. A signature by any one is taken."""
    base_url: str = "https://api.stripe.com"
    """Stripe's address."""
    timeout_seconds: Annotated[float, Field(gt=0.2, le=80, allow_inf_nan=False)] = 10
    """Longest wait for an answer of Stripe's, each try."""
    retries: Annotated[int, Field(strict=True, ge=0, le=5)] = 2
    """Further tries of a request that Stripe did not answer, or answered 409 or 5xx. None is done twice."""


class ReconcileSection(Section):
    """Looking for what no webhook told."""

    every_seconds: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = 600
    """How often those of the last `days` are listed."""
    days: Annotated[int, Field(strict=True, ge=1, le=30)] = 3
    """As long as Stripe tries to deliver a webhook, at least."""
    long_every_seconds: Annotated[float, Field(ge=1, le=604_800, allow_inf_nan=False)] = 86_400
    """How often those of the last `long_days` are listed."""
    long_days: Annotated[int, Field(strict=True, ge=1, le=365)] = 30
    """Payments by bank may take weeks to arrive."""


class BillingSection(Section):
    """What credits cost in money. Without `stripe` the billing routes answer 503."""

    packs: tuple[PackSection, ...] = ()
    """What buyers can choose from."""
    stripe: StripeSection | None = None
    """Absent: nothing is sold."""
    success_url: str | None = None
    """Where Stripe sends the buyer who has paid. Needed with stripe; gets ?order_id=…&session_id=… added."""
    cancel_url: str | None = None
    """Where Stripe sends the buyer who turned back. Needed with stripe; gets ?order_id=… added."""
    quantity_max: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 100
    """Most packs in one purchase."""
    promotion_codes: bool = False
    """Let buyers enter codes of yours at Stripe. They pay less; the credits stay the pack's."""
    automatic_tax: bool = False
    """Let Stripe add the tax on top of the price. Stripe Tax must be set up."""
    reuse_customers: bool = False
    """Each user is one customer at Stripe, who finds his cards again; else each purchase is by a guest."""
    receipts: Literal["stripe", "invoice"] = "stripe"
    """stripe: as its dashboard says. invoice: Stripe makes a paid invoice, a PDF, of every purchase, for a fee."""
    reconcile: ReconcileSection = Field(default_factory=ReconcileSection)
    """Looking for what no webhook told: Stripe's checkouts, refunds and disputes are listed, our orders set right."""


class NotificationsSection(Section):
    """Webhooks to the app, signed by the Standard Webhooks scheme: credits.low, credits.exhausted, order.fulfilled,
    order.clawed_back, order.reinstated."""

    url: str
    """Where they are sent. Any 2xx is taken for received."""
    secret: Secret
    """whsec_ and 24 to 64 random bytes in base64: what they are signed with."""
    thresholds: tuple[Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)], ...] = ()
    """Credits: a key that falls below one is told of once, as credits.low. At 0 it is credits.exhausted."""
    look_every_seconds: Annotated[float, Field(ge=0.1, le=3_600, allow_inf_nan=False)] = 5
    """How often balances are looked at. Calls don't wait for it."""
    timeout_seconds: Annotated[float, Field(gt=0.2, le=60, allow_inf_nan=False)] = 10
    """Longest wait for an answer."""


class TelemetrySection(Section):
    """OpenTelemetry: traces and metrics for a collector, by OTLP over HTTP. Needs the extra `otel`."""

    otlp_endpoint: Annotated[str, Field(examples=["http://collector:4318"])]
    """The collector's address. /v1/traces and /v1/metrics are put behind it."""
    headers: dict[str, Secret] = Field(default_factory=dict)
    """Sent with each export: what the collector wants to see. Over http:// anybody on the way can read them."""
    service_name: Text = "credit-gateway"
    """What this gateway is called there (service.name)."""
    traces: bool = True
    """A span for each sampled call of a route, and one for its upstream."""
    sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.01
    """The share of calls whose trace begins here that are traced. Of all others their caller has decided."""
    metrics: bool = True
    """What /metrics shows."""
    metrics_interval_seconds: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 60
    """How often metrics are sent."""


class LogSection(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level written."""
    format: Literal["auto", "line", "json"] = "auto"
    """auto: lines on a terminal, JSON otherwise."""
    access: bool = True
    """One record per call."""
    access_sample: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1
    """The share of calls that are recorded, by chance. Errors, refusals and what was given back are recorded always."""


class Config(Section):
    """The whole of config.yaml."""

    server: ServerSection = Field(default_factory=ServerSection)
    admin: AdminSection | None = Field(default_factory=AdminSection)
    """`admin: null` turns the listener off."""
    database: DatabaseSection = Field(default_factory=DatabaseSection)
    credits: CreditsSection = Field(default_factory=CreditsSection)
    identity: IdentitySection = Field(default_factory=IdentitySection)
    upstreams: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")], UpstreamSection] = Field(
        default_factory=dict
    )
    """The services behind the gateway, by name."""
    routes: tuple[RouteSection, ...] = ()
    """What is sold. The most specific path wins, whatever the order."""
    billing: BillingSection = Field(default_factory=BillingSection)
    notifications: NotificationsSection | None = None
    """Signed webhooks to the app (Standard Webhooks). Absent: it is told nothing."""
    log: LogSection = Field(default_factory=LogSection)
    telemetry: TelemetrySection | None = None
    """OpenTelemetry. Absent: nothing is exported."""
