"""The payment page: what the buyer sees at a session's URL, and what its form does.

GET  /c/pay/cs_test_…   the form, or why there is none any more
POST /c/pay/cs_test_…   pay, or apply a promotion code; then back to the shop
GET  /shop/done, /shop/cancelled   in the place of a shop's own pages, where it has none
"""

from __future__ import annotations

import asyncio
import contextlib
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from gateway.sandbox.stripe.acts import Acts
from gateway.sandbox.stripe.answers import Answer, Refusal
from gateway.sandbox.stripe.currencies import shown
from gateway.sandbox.stripe.database import Document
from gateway.sandbox.stripe.forms import BadForm, read_form
from gateway.sandbox.stripe.sessions import PAY_PATH, Sale, Sessions
from gateway.sandbox.stripe.settings import Settings
from gateway.sandbox.stripe.webhooks import Webhooks

SHOP_PATH = "/shop/"
DONE_PATH = "/shop/done"
CANCELLED_PATH = "/shop/cancelled"
SESSION_ID = "{CHECKOUT_SESSION_ID}"
METHODS = {
    "card": "Card that works",
    "declined": "Card that is declined",
    "later": "Bank debit that succeeds a little later",
    "failing": "Bank debit that fails a little later",
}
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
_SHOP = {
    DONE_PATH: (
        "Thank you",
        """<p>You are back at the shop. Your app's own page would be here.</p>
        <p>It asks <code>GET /orders/{order_id}</code> until the credits have arrived.</p>""",
    ),
    CANCELLED_PATH: (
        "Not paid",
        "<p>You went back to the shop without paying. Your app's own page would be here.</p>",
    ),
}


class PaymentPage:
    """Answers the pages."""

    def __init__(self, sessions: Sessions, acts: Acts, webhooks: Webhooks, settings: Settings) -> None:
        self._sessions = sessions
        self._acts = acts
        self._webhooks = webhooks
        self._settings = settings
        self._frame = Template((files(__package__) / "page.html").read_text(encoding="utf-8"))

    async def answer(self, method: str, path: str, body: bytes) -> Answer:
        if path in _SHOP:
            return self._page(200, *_SHOP[path])
        try:
            sale = self._sessions.sale(path.removeprefix(PAY_PATH))
        except Refusal:
            return self._page(404, "Nothing to pay", "<p>There is no such Checkout Session.</p>")
        if method == "POST":
            return await self._submitted(sale, body)
        if method != "GET":
            return Answer(405, b"", {"Allow": "GET, POST"})
        return self._show(sale)

    async def _submitted(self, sale: Sale, body: bytes) -> Answer:
        try:
            form = {name: value for name, value in read_form(body).items() if isinstance(value, str)}
        except BadForm as error:
            return self._show(sale, str(error), 400)
        try:
            if form.get("action") == "apply":
                self._sessions.apply_code(sale, form.get("promotion_code", ""))
                return self._show(sale)
            if sale.session["status"] == "expired":
                return self._show(sale)
            if sale.session["status"] == "open":
                self._pay(sale, form)
        except Refusal as refusal:
            return self._show(sale, str(refusal), refusal.status)
        await self._wait_for_webhook(sale.session)
        return Answer(303, b"", {"Location": back_to_shop(sale.session), "Cache-Control": "no-store"})

    def _pay(self, sale: Sale, form: dict[str, str]) -> None:
        """Raises Refusal, where the card is declined too."""
        identifier = sale.session["id"]
        buyer: dict[str, Any] = {"name": form.get("name") or None}
        if form.get("email"):
            buyer["email"] = form["email"]
        code = form.get("promotion_code") if sale.discount is None else None
        match form.get("method", "card"):
            case "declined":
                self._acts.decline(identifier, **buyer)
                raise Refusal(402, "Your card was declined.")
            case "later":
                self._acts.pay_later(identifier, succeeds=True, promotion_code=code, **buyer)
            case "failing":
                self._acts.pay_later(identifier, succeeds=False, promotion_code=code, **buyer)
            case _:
                self._acts.pay(identifier, promotion_code=code, **buyer)

    async def _wait_for_webhook(self, session: Document) -> None:
        """So that the shop mostly knows by the time the buyer is back."""
        if session["status"] != "complete" or not self._webhooks.wanted("checkout.session.completed"):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.redirect_seconds):
                await self._webhooks.tried("checkout.session.completed", session["id"])

    def _show(self, sale: Sale, problem: str = "", status: int = 200) -> Answer:
        session = sale.session
        if session["status"] == "complete":
            back = f'<p class="back"><a href="{escape(back_to_shop(session))}">Back to the shop</a></p>'
            return self._page(200, "Paid already", "<p>This was completed before.</p>" + back)
        if session["status"] == "expired":
            return self._page(410, "Too late", "<p>This Checkout Session has expired.</p>")
        total = shown(session["amount_total"], session["currency"])
        content = _problem(problem) + _summary(sale) + _form(sale, total) + _cancel(session)
        return self._page(status, f"Pay {total}", content)

    def _page(self, status: int, title: str, content: str) -> Answer:
        body = self._frame.substitute(title=escape(title), content=content)
        return Answer(status, body.encode("utf-8", "replace"), _HEADERS)


def back_to_shop(session: Document) -> str:
    """The success URL with the session's id in its place."""
    url: str = session["success_url"]
    return url.replace(SESSION_ID, session["id"])


def _problem(text: str) -> str:
    return f'<p class="alert" role="alert">{escape(text)}</p>' if text else ""


def _summary(sale: Sale) -> str:
    session = sale.session
    currency = session["currency"]
    rows = "".join(
        f"<tr><td>{escape(item['description'])}</td><td>{item['quantity']}</td>"
        f"<td>{escape(shown(item['amount_subtotal'], currency))}</td></tr>"
        for item in sale.items
    )
    discount = session["total_details"]["amount_discount"]
    if discount:
        rows += f"<tr><td colspan=2>Discount</td><td>−{escape(shown(discount, currency))}</td></tr>"
    if session["automatic_tax"]["enabled"]:
        rows += "<tr><td colspan=2>Tax</td><td>added when you pay</td></tr>"
    total = escape(shown(session["amount_total"], currency))
    return (
        '<table><thead><tr><th scope="col">Item</th><th scope="col">Quantity</th><th scope="col">Amount</th></tr>'
        f'</thead><tbody>{rows}</tbody><tfoot><tr><th scope="row" colspan=2>Total</th><td id="total">{total}</td>'
        "</tr></tfoot></table>"
    )


def _form(sale: Sale, total: str) -> str:
    session = sale.session
    email = escape(session["customer_email"] or "buyer@example.com")
    fixed = " readonly" if session["customer_email"] else ""
    methods = "".join(
        f'<label><input type="radio" name="method" value="{value}"{" checked" if value == "card" else ""}> '
        f"{escape(label)}</label>"
        for value, label in METHODS.items()
    )
    code = ""
    if session["allow_promotion_codes"] and sale.discount is None:
        code = (
            '<label for="promotion_code">Promotion code (optional)</label>'
            '<input type="text" id="promotion_code" name="promotion_code" autocomplete="off">'
            '<button class="second" name="action" value="apply" formnovalidate>Apply code</button>'
        )
    return (
        '<form method="post"><label for="email">E-mail</label>'
        f'<input type="email" id="email" name="email" required autocomplete="email" value="{email}"{fixed}>'
        f"<fieldset><legend>How to pay</legend>{methods}</fieldset>{code}"
        f'<button name="action" value="pay" id="pay">Pay {escape(total)}</button></form>'
    )


def _cancel(session: Document) -> str:
    if not session["cancel_url"]:
        return ""
    return f'<p class="back"><a id="cancel" href="{escape(session["cancel_url"])}">Back without paying</a></p>'
