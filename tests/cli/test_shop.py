"""Where `gateway dev` lets credits be bought: at a stand-in, unless the config names a Stripe that is elsewhere."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest

from gateway.cli.shop import PACK, PORT, send_webhooks, shop
from gateway.cli.stand_in import local_port
from gateway.config.load import parse_config
from gateway.sandbox.stripe.server import WEBHOOK_SECRET
from tests import preloaded

OWN = """\
billing:
  packs: [{id: large, name: Large, credits: 900, price_cents: 700, currency: eur}]
  stripe: {secret_key: rk_test_own, webhook_secret: whsec_own, base_url: "%s"}
  success_url: https://app.example.com/done
  cancel_url: https://app.example.com/cancelled
"""


def config(text=""):
    return parse_config(text.encode(), {})


@contextmanager
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def test_without_a_stripe_there_is_a_stand_in_a_pack_and_pages_to_come_back_to():
    with shop(config()) as (serving, address):
        billing = serving.billing
        assert billing.stripe.base_url == address
        assert billing.stripe.webhook_secret.get_secret_value() == WEBHOOK_SECRET
        assert [pack.model_dump() for pack in billing.packs] == [PACK]
        for page in (billing.success_url, billing.cancel_url):
            assert page.startswith(address)
            assert httpx.get(page, trust_env=False).status_code == 200
        answer = httpx.get(f"{address}/v1/events", auth=(billing.stripe.secret_key.get_secret_value(), ""))
        assert answer.status_code == 200


def test_packs_and_pages_of_the_config_are_kept():
    text = OWN.replace('  stripe: {secret_key: rk_test_own, webhook_secret: whsec_own, base_url: "%s"}\n', "")
    with shop(config(text)) as (serving, address):
        assert address is not None
        assert [pack.id for pack in serving.billing.packs] == ["large"]
        assert serving.billing.success_url == "https://app.example.com/done"


def test_a_stripe_that_is_elsewhere_is_left_alone():
    given = config(OWN % "https://api.stripe.com")
    with shop(given) as (serving, address):
        assert serving is given
        assert address is None


def test_a_stripe_on_this_machine_is_stood_in_for_where_the_config_expects_it():
    with taken_port() as port:
        pass
    with shop(config(OWN % f"http://127.0.0.1:{port}")) as (serving, address):
        assert address == serving.billing.stripe.base_url == f"http://127.0.0.1:{port}"
        assert serving.billing.stripe.secret_key.get_secret_value() == "rk_test_own"


def test_a_taken_port_is_not_insisted_on():
    with taken_port() as port, shop(config(OWN % f"http://localhost:{port}")) as (serving, address):
        assert local_port(address) != port
        assert serving.billing.stripe.base_url == address


def test_the_stand_in_signs_with_the_configs_secret_which_is_in_nobodys_arguments():
    with taken_port() as port:
        pass
    with shop(config(OWN % f"http://127.0.0.1:{port}")) as (serving, address):
        send_webhooks(serving, address, "http://127.0.0.1:1")
        endpoints = httpx.get(f"{address}/v1/webhook_endpoints", auth=("rk_test_own", ""), trust_env=False).json()
        assert [endpoint["url"] for endpoint in endpoints["data"]] == ["http://127.0.0.1:1/stripe-webhook"]
        assert "secret" not in endpoints["data"][0]
        children = psutil.Process().children(recursive=True)
        assert any("gateway.sandbox.stripe" in child.cmdline() for child in children)
        assert not [child for child in children if "whsec_own" in " ".join(child.cmdline())]


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with shop(config()) as (serving, address):
        send_webhooks(serving, address, "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("http://127.0.0.1:9002", 9002),
        ("http://localhost", 80),
        ("https://localhost:1", None),
        ("http://stripe.example", None),
        ("https://api.stripe.com", None),
    ],
)
def test_only_plain_http_on_this_machine_is_stood_in_for(address, port):
    assert local_port(address) == port


def test_many_that_start_at_once_do_not_quarrel_over_the_port():
    with ExitStack() as stack:
        starts = [subprocess_of(stack) for _ in range(6)]
        addresses = {start.stdout.readline().split()[-1] for start in starts}
    assert len(addresses) == 6


def subprocess_of(stack):
    """A stand-in that wants the usual port."""
    command = [sys.executable, "-m", "gateway.sandbox.stripe", "--port", str(PORT), "--or-any-port"]
    process = stack.enter_context(preloaded.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.terminate)
    return process
