"""Who is measured, and how each is set up: one core, keep-alive on both sides, no access log.

nginx and Envoy ask a stub that says yes to everybody, without looking: the least that an authorising proxy can do.
The gateway really checks the key, takes the credits, and writes hold and ledger rows to a database file.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.books import Books, read_books
from benchmarks.load import BODY, Target
from benchmarks.postgres import start_postgres
from benchmarks.processes import Server, Servers, Unusable, free_port, wait_listening
from benchmarks.sold import create_key, create_keys
from benchmarks.tools import Tools

PATH = "/v1/personas"
VERIFY = "/v2/keys.verifyKey"
UNKEY_API_KEY = "gw_bench_3ZHy3B8zjHB4Ym7mRvdNWhYq2o"
ASKED = {"key": UNKEY_API_KEY, "credits": {"cost": 1}}
VERDICT = json.dumps(
    {
        "meta": {"requestId": "req_2cGKbMxRyIzhCxo1Idjz8q"},
        "data": {
            "valid": True,
            "code": "VALID",
            "keyId": "key_2cGKbMxRjIzhCxo1IdjH3arELti7Sdyc8w6XYbvtcyuBowPT",
            "name": "bench",
            "credits": 999_000,
            "enabled": True,
            "identity": {"id": "id_1", "externalId": "bench"},
        },
    }
)
"""What Unkey answers to a good key."""


@dataclass(slots=True)
class Bench:
    """What every contender is started with. `upstream` and `stub` are ports on 127.0.0.1."""

    tools: Tools
    servers: Servers
    directory: Path
    core_proxy: int
    core_load: int
    upstream: int
    stub: int
    gateway_command: list[str]
    keys: int = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A contender that listens. `database` is the URL of the gateway's, and `books` what was in it; the others have
    none. `servers` are all that work for it, but for the upstream."""

    name: str
    label: str
    target: Target
    servers: tuple[Server, ...]
    database: str | None = None
    books: Books | None = None


def start_upstream(servers: Servers, tools: Tools, directory: Path, core: int) -> tuple[Server, int, int]:
    """One nginx that is the upstream (200 bytes of JSON) and the stub, each on its port. The stub says yes: with an
    empty 200, and to Unkey's verifyKey with a verdict."""
    upstream, stub = free_port(), free_port()
    config = _nginx_config(
        directory / "upstream",
        f"""
        server {{
            listen 127.0.0.1:{upstream} backlog=1024;
            location / {{ default_type application/json; return 200 '{BODY.decode()}'; }}
        }}
        server {{
            listen 127.0.0.1:{stub} backlog=1024;
            location / {{ return 200; }}
            location {VERIFY} {{ default_type application/json; return 200 '{VERDICT}'; }}
        }}""",
    )
    server = servers.start("upstream", [tools.nginx, "-c", str(config)], core=core)
    wait_listening(server, upstream)
    return server, upstream, stub


def start_bare(bench: Bench, upstream: Server) -> Running:
    """No proxy at all: what the load side can do."""
    return Running("bare", "upstream without a proxy", target_of(bench.upstream), (upstream,))


def start_verify(bench: Bench, upstream: Server) -> Running:
    """No proxy either: one verify, asked of the stub as the gateway asks it."""
    target = Target(f"http://127.0.0.1:{bench.stub}{VERIFY}", body=json.dumps(ASKED), answer=VERDICT.encode())
    return Running("verify", "verify stub alone", target, (upstream,))


def target_of(port: int, api_key: str = "", keys: Path | None = None) -> Target:
    return Target(f"http://127.0.0.1:{port}{PATH}", api_key, keys=keys)


def start_nginx(bench: Bench) -> Running:
    """nginx at its best: connections to the upstream and to the stub are kept."""
    return _start_nginx(
        bench,
        "nginx",
        "nginx auth_request",
        KEEP_ALIVE,
        'proxy_http_version 1.1; proxy_set_header Connection "";',
    )


def start_nginx_default(bench: Bench) -> Running:
    """nginx as the manual of auth_request shows it: HTTP/1.0 and a new connection for each request behind it."""
    return _start_nginx(bench, "nginx-default", "nginx auth_request, no keep-alive behind it", "", "")


def _start_nginx(bench: Bench, name: str, label: str, keep_alive: str, proxy: str) -> Running:
    port = free_port()
    config = _nginx_config(
        bench.directory / name,
        f"""
        upstream personas {{ server 127.0.0.1:{bench.upstream}; {keep_alive} }}
        upstream stub {{ server 127.0.0.1:{bench.stub}; {keep_alive} }}
        {proxy}
        server {{
            listen 127.0.0.1:{port} backlog=1024;
            location / {{ auth_request /auth; proxy_pass http://personas; }}
            location = /auth {{
                internal;
                proxy_pass http://stub;
                proxy_pass_request_body off;
                proxy_set_header Content-Length "";
                {proxy}
            }}
        }}""",
    )
    server = bench.servers.start(name, [bench.tools.nginx, "-c", str(config)], core=bench.core_proxy)
    wait_listening(server, port)
    return Running(name, label, target_of(port), (server,))


def start_envoy(bench: Bench) -> Running:
    port = free_port()
    config = bench.directory / "envoy.json"
    config.write_text(json.dumps(_envoy_config(port, bench.upstream, bench.stub)))
    command = [bench.tools.envoy or "", "-c", str(config), "--concurrency", "1", "--log-level", "error"]
    server = bench.servers.start("envoy", [*command, "--disable-hot-restart"], core=bench.core_proxy)
    wait_listening(server, port)
    return Running("envoy", "Envoy ext_authz", target_of(port), (server,))


def start_gateway(bench: Bench) -> Running:
    """The gateway as it is delivered: keys and credits in its own database."""
    setting = gateway_setting(bench, "gateway", {"provider": "local"})
    return _start_local(bench, "credit-gateway", setting)


def start_gateway_unkey(bench: Bench) -> Running:
    """The gateway with Unkey: a verify per call, to the stub, beside the rows of its own."""
    unkey = {"api_id": "api_bench", "root_key": "unkey_bench", "base_url": f"http://127.0.0.1:{bench.stub}"}
    setting = gateway_setting(bench, "gateway-unkey", {"provider": "unkey", "unkey": unkey})
    migrate(bench, setting)  # it may listen before it has made its tables, and its books are read then
    return _start_gateway(bench, "credit-gateway with Unkey", setting, UNKEY_API_KEY)


def start_gateway_postgres(bench: Bench) -> Running:
    """The gateway with its books in PostgreSQL, which shares the load's core."""
    server, url = start_postgres(bench.servers, bench.directory / "postgres", bench.core_load)
    setting = gateway_setting(bench, "gateway-postgres", {"provider": "local"}, url)
    migrate(bench, setting)
    running = _start_local(bench, "credit-gateway on PostgreSQL", setting)
    return replace(running, servers=(*running.servers, server))


def migrate(bench: Bench, setting: Setting) -> None:
    subprocess.run([*bench.gateway_command, "migrate", "-c", str(setting.config)], check=True, capture_output=True)


@dataclass(frozen=True, slots=True)
class Setting:
    """A gateway that may be started."""

    name: str
    port: int
    config: Path
    database: str


def gateway_setting(bench: Bench, name: str, credits: dict[str, object], url: str | None = None) -> Setting:
    port = free_port()
    directory = bench.directory / name
    directory.mkdir()
    database = url or f"sqlite:///{directory / 'gateway.db'}"
    config = directory / "config.yaml"
    # JSON is YAML. Only the access log is off; metrics and journal stay on.
    config.write_text(
        json.dumps(
            {
                "server": {"host": "127.0.0.1", "port": port, "workers": 1},
                "admin": {"host": "127.0.0.1", "port": 0},
                "database": {"url": database},
                "credits": credits,
                "upstreams": {"personas": {"targets": [f"http://127.0.0.1:{bench.upstream}"]}},
                "routes": [{"path": PATH, "methods": ["GET", "POST"], "upstream": "personas", "cost": 1}],
                "log": {"access": False},
            }
        )
    )
    return Setting(name, port, config, database)


def _start_local(bench: Bench, label: str, setting: Setting) -> Running:
    """With as many keys as are asked for."""
    api_key, keys = create_key(bench.gateway_command, setting.config), None
    if bench.keys > 1:
        keys = setting.config.with_name("keys")
        create_keys(setting.config, bench.keys, keys)
    return _start_gateway(bench, label, setting, api_key, keys)


def _start_gateway(bench: Bench, label: str, setting: Setting, api_key: str, keys: Path | None = None) -> Running:
    server = serve(bench, setting, bench.core_proxy)
    label = f"{label} ({build_of(bench.gateway_command)})"
    target, books = target_of(setting.port, api_key, keys), read_books(setting.database)
    return Running(setting.name, label, target, (server,), setting.database, books)


def serve(bench: Bench, setting: Setting, core: int | str) -> Server:
    """A gateway that listens."""
    server = bench.servers.start(setting.name, [*bench.gateway_command, "serve", "-c", str(setting.config)], core=core)
    wait_listening(server, setting.port)
    return server


def start_plain(bench: Bench) -> Running:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.plain_proxy:app", "--port", str(port)]
    command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    environment = {
        "UPSTREAM_URL": f"http://127.0.0.1:{bench.upstream}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    server = bench.servers.start("plain", command, core=bench.core_proxy, environment=environment)
    wait_listening(server, port)
    return Running("plain", "Starlette + httpx, no keys", target_of(port), (server,))


PROXIES: dict[str, Callable[[Bench], Running]] = {
    "nginx": start_nginx,
    "nginx-default": start_nginx_default,
    "envoy": start_envoy,
    "gateway": start_gateway,
    "gateway-unkey": start_gateway_unkey,
    "gateway-postgres": start_gateway_postgres,
    "plain": start_plain,
}
"""Those with a start of their own, in the order of a round."""

UNPROXIED: dict[str, Callable[[Bench, Server], Running]] = {"bare": start_bare, "verify": start_verify}
"""What is behind the proxies, by itself. `verify` is asked one call at a time only."""

NAMES = (*PROXIES, *UNPROXIED)


def gateway_command(text: str | None) -> list[str]:
    """The words of the command that runs the gateway: as given, or the one installed beside this Python."""
    if text:
        return shlex.split(text)
    installed = Path(sys.executable).with_name("gateway")
    if not installed.is_file():
        raise Unusable("not found: the `gateway` command. Install with: make install (or give --gateway-command)")
    return [str(installed)]


def build_of(command: list[str]) -> str:
    """What is measured, for the table: whether it is compiled, and its Python. Raises Unusable."""
    told = subprocess.run([*command, "version", "--json"], capture_output=True, text=True, check=False)
    if told.returncode:
        raise Unusable(f"{shlex.join(command)} does not tell its version: {told.stderr[-500:]}")
    version = json.loads(told.stdout)
    return f"{version['build']}, Python {version['python']}"


KEEP_ALIVE = "keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h;"
"""nginx closes a connection after 1,000 requests by default; here nobody closes any."""


def _nginx_config(directory: Path, servers: str) -> Path:
    """The file of an nginx that keeps everything it writes in `directory`."""
    directory.mkdir()
    # As root, nginx would give its temporary folders to another user, who can't enter ours.
    user = "user root;" if os.geteuid() == 0 else ""
    folders = " ".join(
        f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = directory / "nginx.conf"
    path.write_text(
        f"""{user}
    daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log stderr error;
    events {{ worker_connections 4096; }}
    http {{
        access_log off; {folders}
        keepalive_requests 1000000000; keepalive_timeout 1h;
        {servers}
    }}
    """
    )
    return path


def _envoy_config(port: int, upstream: int, stub: int) -> dict[str, object]:
    """A static Envoy: the HTTP ext_authz filter, then the router."""
    types = "type.googleapis.com/envoy.extensions.filters"
    authorise = {
        "@type": f"{types}.http.ext_authz.v3.ExtAuthz",
        "http_service": {
            "server_uri": {"uri": f"http://127.0.0.1:{stub}", "cluster": "stub", "timeout": "1s"},
            "path_prefix": "/auth",
        },
    }
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "personas"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": authorise},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}},
        ],
    }
    listener = {
        "name": "http",
        "address": _address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    clusters = [_cluster("personas", upstream), _cluster("stub", stub)]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int) -> dict[str, object]:
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
