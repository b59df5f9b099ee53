"""Coupons and the codes by which buyers redeem them."""

from __future__ import annotations

from typing import Any

from gateway.sandbox.stripe.answers import invalid, no_such, not_now
from gateway.sandbox.stripe.database import Database, Document, new_id, with_metadata


class Promotions:
    """Coupons (`percent_off` or `amount_off`) and promotion codes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_coupon(self, asked: dict[str, Any]) -> Document:
        if ("percent_off" in asked) == ("amount_off" in asked):
            raise invalid("You must pass exactly one of percent_off and amount_off.", "percent_off")
        if "amount_off" in asked and "currency" not in asked:
            raise invalid("You must pass currency when passing amount_off", "currency", "parameter_missing")
        coupon = {
            "id": asked.get("id", new_id("", 8)),
            "object": "coupon",
            "amount_off": asked.get("amount_off"),
            "created": self._database.now(),
            "currency": asked.get("currency"),
            "duration": asked.get("duration", "once"),
            "duration_in_months": None,
            "livemode": False,
            "max_redemptions": None,
            "metadata": asked.get("metadata", {}),
            "name": asked.get("name"),
            "percent_off": asked.get("percent_off"),
            "redeem_by": None,
            "times_redeemed": 0,
            "valid": True,
        }
        if coupon["id"] in self._database.coupons:
            raise not_now("Coupon already exists.", "resource_already_exists")
        self._database.coupons.add(coupon)
        return coupon

    def create_code(self, asked: dict[str, Any]) -> Document:
        promotion = asked["promotion"]
        if "coupon" not in promotion:
            raise invalid("Missing required param: promotion[coupon].", "promotion[coupon]", "parameter_missing")
        coupon = self._database.coupons.get(promotion["coupon"], "promotion[coupon]")
        code = asked.get("code", new_id("", 8).upper())
        if self.active_code(code) is not None:
            raise not_now("An active promotion code with `code: " + code + "` already exists.", param="code")
        document = self._database.new(
            "promotion_code",
            "promo_",
            code=code,
            promotion={"coupon": coupon["id"], "type": "coupon"},
            active=asked.get("active", True),
            max_redemptions=asked.get("max_redemptions"),
            metadata=asked.get("metadata", {}),
        )
        self._database.promotion_codes.add(document)
        return document

    def update_code(self, document: Document, asked: dict[str, Any]) -> Document:
        with_metadata(document, asked.get("metadata", {}))
        document["active"] = asked.get("active", document["active"])
        return document

    def active_code(self, code: str) -> Document | None:
        """Codes are found whatever their case."""
        for document in self._database.promotion_codes:
            most = document["max_redemptions"]
            usable = document["active"] and (most is None or document["times_redeemed"] < most)
            if usable and document["code"].lower() == code.lower():
                return document
        return None

    def coupon_of(self, discount: dict[str, Any], currency: str) -> Document:
        """The coupon that a session's `discounts` member names. Raises Refusal."""
        identifier = discount.get("coupon")
        if identifier is None:
            code = self._database.promotion_codes.get(discount["promotion_code"], "discounts[0][promotion_code]")
            if not code["active"]:
                raise no_such("promotion_code", code["id"], "discounts[0][promotion_code]")
            identifier = code["promotion"]["coupon"]
        coupon = self._database.coupons.get(identifier, "discounts[0][coupon]")
        if coupon["amount_off"] is not None and coupon["currency"] != currency:
            raise not_now(f"The coupon is not in {currency}.", param="discounts[0]")
        return coupon

    def redeem(self, discount: dict[str, Any]) -> None:
        """Count that it was used."""
        for table, name in ((self._database.coupons, "coupon"), (self._database.promotion_codes, "promotion_code")):
            identifier = discount.get(name)
            if identifier is not None:
                table.get(identifier)["times_redeemed"] += 1
        if discount.get("coupon") is None:
            code = self._database.promotion_codes.get(discount["promotion_code"])
            self._database.coupons.get(code["promotion"]["coupon"])["times_redeemed"] += 1
