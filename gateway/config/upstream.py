"""The part of the config tree that is about upstreams: their targets, connections, retries, ejection and health."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from gateway.config.section import Bytes, Seconds, Section


class TlsSection(Section):
    """How https targets are checked. Certificates are always verified."""

    ca_file: str | None = None
    """A PEM bundle to trust instead of the system's."""
    server_name: str | None = None
    """The name to verify instead of the target's host."""


class TargetSection(Section):
    """A target with its share of the calls."""

    url: Annotated[str, Field(examples=["http://127.0.0.1:9000"])]
    """Its base URL."""
    weight: Annotated[int, Field(strict=True, ge=1, le=1000)] = 1
    """Its share, beside the weights of the others."""


class RetriesSection(Section):
    """When a call is tried at another target."""

    attempts: Annotated[int, Field(strict=True, ge=1, le=10)] = 2
    """Targets that a call is tried at, the first one counted. 1: no retries."""
    within_seconds: Seconds = 10
    """No attempt begins later than this after the first."""
    budget_percent: Annotated[int, Field(strict=True, ge=0, le=100)] = 20
    """Retries that are allowed per hundred calls."""
    budget_min_per_second: Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)] = 1
    """Retries that are allowed whatever the number of calls. Up to ten seconds' worth are saved up."""


class EjectionSection(Section):
    """When a target gets no calls for a while."""

    failures: tuple[Literal["unreachable", "timeout", "5xx"], ...] = ("unreachable", "timeout", "5xx")
    """What counts as failed. []: no target is ever ejected."""
    consecutive_failures: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 5
    """So many in a row eject a target."""
    failure_percent: Annotated[int, Field(strict=True, ge=1, le=100)] = 30
    """So large a share of the last window's calls, and twice that of the other targets, ejects a target."""
    failure_min_calls: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 20
    """Below so many calls in the window the share says nothing."""
    window_seconds: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 10
    """About how far back the share looks; of busy targets no further than five times failure_min_calls."""
    seconds: Annotated[float, Field(ge=0.1, le=3_600, allow_inf_nan=False)] = 2
    """Length of the first ejection; each next one is twice as long. Then one call tries whether the target is well."""
    max_seconds: Annotated[float, Field(ge=0.1, le=86_400, allow_inf_nan=False)] = 60
    """Longest ejection. A target that can't be connected to is tried every 3 s at least: that call loses nothing."""
    max_percent: Annotated[int, Field(strict=True, ge=0, le=100)] = 70
    """Largest share of the targets that may be ejected for their answers."""
    slow_start_seconds: Annotated[float, Field(ge=0, le=3_600, allow_inf_nan=False)] = 5
    """In this time the calls for a target that returns grow from a tenth to its share. 0: it gets it at once."""


class HealthCheckSection(Section):
    """Asks each target how it is, on connections of its own."""

    path: Annotated[str, Field(pattern=r"^/[!-~]*$", examples=["/healthz"])]
    """What is asked for, with GET, behind the target's own path."""
    interval_seconds: Annotated[float, Field(ge=0.1, le=3_600, allow_inf_nan=False)] = 5
    """How often, give or take a tenth."""
    timeout_seconds: Annotated[float, Field(ge=0.1, le=300, allow_inf_nan=False)] = 2
    """Longest wait for the answer."""
    healthy_after: Annotated[int, Field(strict=True, ge=1, le=100)] = 2
    """Good answers in a row after which a target that is down is up again."""
    unhealthy_after: Annotated[int, Field(strict=True, ge=1, le=100)] = 3
    """Bad ones in a row after which it is down, and gets no calls."""
    expect_status: Annotated[int | None, Field(strict=True, ge=200, le=599)] = None
    """The status of a good answer. Absent: any 2xx."""


class UpstreamSection(Section):
    """A service behind the gateway."""

    targets: Annotated[tuple[str | TargetSection, ...], Field(min_length=1, examples=[["http://127.0.0.1:9000"]])]
    """Base URLs, http:// or https://, each alone or as {url, weight}. A path in it is put before the call's path."""
    transport: Literal["http1", "httpx"] = "http1"
    """http1: our own fast client. httpx: slower, for HTTP/2 and outbound proxies."""
    http2: bool = False
    """Speak HTTP/2 where the target offers it (transport: httpx)."""
    proxy_url: SecretStr | None = None
    """Outbound proxy (transport: httpx)."""
    trust_env: bool = False
    """Take HTTP_PROXY and the like from the environment (transport: httpx)."""
    connect_timeout_seconds: Seconds = 2
    """Time to reach the target, TLS included."""
    response_timeout_seconds: Seconds = 30
    """Time from the request's last byte sent to the response's head."""
    idle_timeout_seconds: Seconds = 60
    """Longest silence inside a response body, or while the upstream takes no byte of the request."""
    connections_max: Annotated[int, Field(strict=True, ge=1)] = 256
    """Connections per target and worker."""
    connection_wait_seconds: Seconds = 1
    """Longest wait for a free connection; then 503 no-healthy-target."""
    keep_alive_timeout_seconds: Seconds = 30
    """How long an idle connection is kept; less than the target's own limit."""
    response_head_max_bytes: Bytes = 65_536
    """Status line and header fields of a response."""
    dns_refresh_seconds: Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False)] = 30
    """How often a target's host name is looked up anew (transport: http1; httpx looks it up for every connection)."""
    tls: TlsSection = Field(default_factory=TlsSection)
    """For https targets."""
    retries: RetriesSection = Field(default_factory=RetriesSection)
    """When a call without an answer is tried at another target: if nothing of it can have been processed; or if its
    method is idempotent (GET, HEAD, OPTIONS, PUT, DELETE) and its body is at hand. It is charged once."""
    ejection: EjectionSection = Field(default_factory=EjectionSection)
    """When a target gets no calls for a while, because of how its calls went. The last target that answers is never
    ejected for its answers."""
    health_check: HealthCheckSection | None = None
    """How each target is asked how it is. Absent: targets are judged by their calls alone."""

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The targets' URLs, whichever way they are written."""
        return tuple(target if isinstance(target, str) else target.url for target in self.targets)
