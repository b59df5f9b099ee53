"""The currencies that Stripe takes, and how amounts in them are written for people."""

from __future__ import annotations


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


CURRENCIES = _codes("""
    aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf clp cny cop
    crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils inr isk jmd jpy
    kes kgs khr kmf krw kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn nad ngn nio nok
    npr nzd pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle sos srd std szl thb tjs top try
    ttd twd tzs uah ugx usd uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer zar zmw
""")
_WITHOUT_CENTS = _codes("bif clp djf gnf jpy kmf krw mga pyg rwf ugx vnd vuv xaf xof xpf")
_SIGNS = {"usd": "$", "eur": "€", "gbp": "£"}
_LEAST = {"usd": 50, "eur": 50, "gbp": 30, "jpy": 50, "chf": 50, "cad": 50, "aud": 50}


def least_amount(currency: str) -> int:
    """The smallest payment that Stripe takes, in the currency's smallest unit; 1 where this table knows none."""
    return _LEAST.get(currency, 1)


def shown(amount: int, currency: str) -> str:
    """`$1.50`, `150 JPY`."""
    number = f"{amount:,}" if currency in _WITHOUT_CENTS else f"{amount / 100:,.2f}"
    sign = _SIGNS.get(currency)
    return f"{sign}{number}" if sign else f"{number} {currency.upper()}"
