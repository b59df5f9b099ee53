"""Logs: readable, parseable, without secrets, and nobody else's handwriting in them."""

import io
import json
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.logs import configure_logging, is_json
from gateway.observe.redaction import Redaction

CONFIGURED = "p@ss w0rd/with'everything\"in:it"
CANARY = "CANARYcanary0123456789"
SECRET_TEXTS = [
    f"gw_{CANARY}",
    f"key=gw_{CANARY}",
    f"GET /v1/x?api_key={CANARY}&y=1",
    f"Authorization: Bearer {CANARY}",
    f"authorization: bearer {CANARY}",
    f"Authorization: Basic {CANARY}==",
    f"bearer   {CANARY}.x-y_z~",
    f"X-API-Key: {CANARY}",
    f"[(b'x-api-key', b'{CANARY}'), (b'accept', b'*/*')]",
    f"[('Authorization', 'Bearer {CANARY}')]",
    f"{{'password': 'two words {CANARY}'}}",
    f'{{"secret": "{CANARY}"}}',
    f'{{"token":"{CANARY}',
    f"sk_live_{CANARY}",
    f"sk_test_{CANARY}",
    f"rk_live_{CANARY}",
    f"whsec_{CANARY}+/=",
    f"unkey_3Z{CANARY}",
    f"postgresql://user:{CANARY}@db.internal/gateway",
    f"postgresql+psycopg://user:{CANARY}@{CANARY}/x@db/gateway",
    f"redis://:{CANARY}@cache:6379",
    f"https://proxy:{CANARY}@10.0.0.1:3128 refused",
    f"eyJhbGciOiJIUzI1NiJ9.{CANARY}.{CANARY}",
    f"Cookie: session={CANARY}",
]


@pytest.fixture
def logging_restored():
    names = [None, "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "httpx", "httpcore", "sqlalchemy"]
    loggers = [logging.getLogger(name) for name in [*names, "hpack", "alembic", "stripe", "asyncio"]]
    before = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=["line", "json"])
def log(request, logging_restored):
    stream = io.StringIO()
    stream.handler = configure_logging("debug", request.param, stream, secrets=[CONFIGURED, ""])
    stream.format = request.param
    return stream


def leave_traces(secret):
    """Log the secret in every way a record can carry one."""
    logger = logging.getLogger("gateway.test")
    logger.info(secret)
    logger.info("args %s and %r", secret, {"nested": [secret.encode("utf-8", "replace"), secret]})
    logger.info("fields", extra={"fields": {"text": secret, "list": [secret], "key_id": "key_1", secret: 1}})
    try:
        try:
            raise ValueError(secret)
        except ValueError as error:
            error.add_note(f"note {secret}")
            raise RuntimeError(f"outer {secret}") from error
    except RuntimeError:
        logger.exception("failed with %s", secret, stack_info=True)


@pytest.mark.parametrize("secret", SECRET_TEXTS)
def test_no_secret_reaches_the_log_however_it_is_logged(log, secret):
    leave_traces(secret)
    text = log.getvalue()
    assert "outer" in text
    assert CANARY not in text
    assert "[redacted]" in text


def test_no_configured_secret_reaches_the_log_whatever_its_shape(log):
    logger = logging.getLogger("gateway.test")
    logger.info("the password is %s.", CONFIGURED)
    logger.info("fields", extra={"fields": {"text": CONFIGURED}})
    try:
        raise OSError(CONFIGURED)
    except OSError:
        logger.exception("x")
    assert "w0rd" not in log.getvalue()
    assert "everything" not in log.getvalue()


@pytest.mark.parametrize("name", ["api_key", "password", "admin_token", "Authorization", "root_key", "webhook_secret"])
def test_a_field_with_a_secret_name_is_never_shown(log, name):
    logging.getLogger("gateway.test").info("x", extra={"fields": {name: "hunter2hunter2", "tokens_used": 7}})
    assert "hunter2" not in log.getvalue()
    assert "7" in log.getvalue()


def test_what_is_not_secret_stays_readable():
    redaction = Redaction()
    for text in [
        "available tokens: 5",
        "key_id=key_3Zabc user_id=user_7",
        "http://127.0.0.1:8080/v1/personas refused",
        "gw_ is our prefix",
        "mail a@b.example",
    ]:
        assert redaction.text(text) == text


HOSTILE = [
    *("eyJ", "eyJaaaaaaaa.", "eyJaaaaaaaa.a~", ".eyJaaaaaaaa", "://", "://a:", "://@", "://user:p", "a://b:"),
    *("gw_", "gw_aaaaaa-", "Bearer ", "bearer'", "token: ", "token='", 'token="', "cookie=b'", "dsn:    "),
    *("a_", "xxxxxxx", "sk_live_", "unkey", "secret_", "authorization=basic ", " ", "@", "="),
]


@pytest.mark.parametrize("first", ["", "@ : = _ eyJ bearer ://", "://a:", "eyJ", "bearer ", "token='"])
@pytest.mark.parametrize("piece", HOSTILE)
def test_redaction_takes_time_in_proportion_to_the_text_whatever_it_is(first, piece):
    redaction = Redaction(secrets=[CONFIGURED])

    def seconds(length):
        text = (first + piece * (length // len(piece)))[:length]
        return min(timed(redaction.text, text) for _ in range(3))

    # Eight times the text: about eight times the time; the square would be sixty-four times.
    assert seconds(32_768) < 24 * max(seconds(4_096), 0.000_05)


def timed(function, argument):
    before = time.process_time()
    function(argument)
    return time.process_time() - before


def test_many_secrets_in_one_run_are_all_taken_out():
    redaction = Redaction()
    for text in [
        f"/gw_{CANARY}/http://a:80/gw_{CANARY}/x@b",
        f"dsn=postgresql://u:{CANARY}&{CANARY}@h/x,token={CANARY}",
        f"x-eyJ{CANARY}.{CANARY}.{CANARY}",
        f"eyJ{CANARY}.{CANARY}.{CANARY}/eyJ{CANARY}.{CANARY}.{CANARY}",
        f"a://b:{CANARY}@c://d:{CANARY}@e",
        f"{{'password':'{CANARY}','api_key':'{CANARY}'}}",
        "a://b:" + CANARY * 500 + "@c",
    ]:
        assert CANARY not in redaction.text(text)
        assert redaction.text(redaction.text(text)) == redaction.text(text)


def test_json_lines_parse_and_carry_the_fields(logging_restored):
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    logger = logging.getLogger("gateway.credits")
    fields = {"cost": 5, "free": False, "none": None, "ratio": 0.5, "nan": float("nan"), "level": "forged", "o": {1: 2}}
    logger.warning("took %d", 5, extra={"fields": fields})
    logger.info("kaputt %s %d", 1)  # noqa: PLE1206 (the mistake is the point)
    logger.debug("not shown")
    first, second = [json.loads(line, parse_constant=pytest.fail) for line in lines(stream)]
    assert first["level"] == "warning"
    assert first["logger"] == "gateway.credits"
    assert first["message"] == "took 5"
    assert first["cost"] == 5
    assert first["free"] is False
    assert first["none"] is None
    assert first["level_"] == "forged"
    assert first["o"] == "{1: 2}"
    assert first["time"].endswith("Z")
    assert len(first["time"]) == len("2026-11-25T12:30:01.123Z")
    assert "do not fit" in second["message"]


def test_a_terminal_gets_one_readable_line(logging_restored):
    stream = Terminal()
    configure_logging("info", "auto", stream)
    logging.getLogger("gateway.credits").info("ready", extra={"fields": {"cost": 5, "why": "a b", "empty": ""}})
    (line,) = lines(stream)
    clock, rest = line.split(" ", 1)
    assert len(clock) == len("12:30:01.123")
    assert rest == 'info  gateway.credits  ready  cost=5 why="a b" empty=""'


def test_auto_means_json_where_nobody_watches():
    assert is_json("auto", io.StringIO())
    assert not is_json("auto", Terminal())
    assert is_json("json", Terminal())
    assert not is_json("line", io.StringIO())


FORGERY = "x\n12:00:00.000 info  gateway  paid\r\n\x1b[2K\x1b]0;t\x07\x00\x85\u2028\u2029\u202e\x9b31m\x7f"


def test_nobody_writes_a_record_of_their_own(log):
    logger = logging.getLogger("gateway.test")
    logger.info(FORGERY)
    logger.info("args %s", FORGERY)
    logger.info("fields", extra={"fields": {"a": FORGERY, FORGERY: 1}})
    try:
        raise ValueError(FORGERY)
    except ValueError:
        logger.exception("exception")
    text = log.getvalue()
    records = [line for line in text.splitlines() if not line.startswith("    ")]
    assert len(records) == 4
    assert not any(line.startswith("12:00:00.000") for line in text.splitlines())
    forbidden = set(FORGERY) - set("\n") - {chr(code) for code in range(0x20, 0x7F)}
    assert not forbidden & set(text)
    if log.format == "json":
        assert json.loads(text.splitlines()[0])["message"] == FORGERY


ANY = st.text(st.characters(exclude_categories=()))  # lone surrogates too


@given(ANY, ANY.filter(bool))
def test_any_text_stays_on_its_line(message, name):
    for shape in ("line", "json"):
        stream = io.StringIO()
        handler = configure_one(shape, stream)
        record = logging.LogRecord("gateway", logging.INFO, __file__, 1, message.replace("%", "%%"), None, None)
        record.fields = {name: message}
        handler.handle(record)
        assert len(stream.getvalue().splitlines()) == 1
        stream.getvalue().encode()
        if shape == "json":
            json.loads(stream.getvalue())


def configure_one(format, stream):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    try:
        return configure_logging("info", format, stream)
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]


def test_libraries_are_quiet_and_leave_through_our_handler(log):
    logging.getLogger("httpx").info("HTTP Request: GET http://x/?api_key=secret")
    logging.getLogger("httpcore.connection").debug("connect")
    logging.getLogger("sqlalchemy.engine").info("SELECT 1")
    logging.getLogger("uvicorn.access").info("GET /?x=1")
    assert log.getvalue() == ""
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("httpx").warning("Bearer abcdef123")
    text = log.getvalue()
    assert "started" in text
    assert "abcdef123" not in text


def test_a_broken_record_does_not_spill_its_content(log, capsys):
    class Hostile:
        def __str__(self):
            raise KeyError(f"gw_{CANARY}")

    # Straight to our handler: pytest's own would raise.
    record = logging.LogRecord("gateway.test", logging.INFO, __file__, 1, "%s", (Hostile(),), None)
    log.handler.handle(record)
    record = logging.LogRecord("gateway.test", logging.INFO, __file__, 1, "x", None, None)
    record.fields = {"a": Hostile()}
    log.handler.handle(record)
    captured = capsys.readouterr()
    assert CANARY not in log.getvalue() + captured.err + captured.out
    assert "KeyError" in log.getvalue()


def lines(stream):
    return stream.getvalue().splitlines()
