"""The optional compiled build: with GATEWAY_COMPILE=1 the modules below become C extensions (mypyc).

What is installed without it, for reading, debugging and tests, is the same code as pure Python. A module is here if it
runs for every call and mypyc makes it quicker. None may suspend inside `except`, `finally` or at the end of an `async
with`: mypyc keeps the exception that is being handled in the thread, not in the coroutine, so whoever runs meanwhile
would see it, and a bare `raise` afterwards would raise another one, or crash. tests/test_compiled.py holds that rule.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

COMPILED = {
    "gateway": ("deadlines", "quota"),
    "gateway/credits": (
        *("admission", "batch", "changes_postgres", "claims", "committer", "crowd", "journal", "known_keys"),
        *("pending", "provider", "store", "store_postgres", "store_sqlite", "taking"),
    ),
    "gateway/credits/unkey": (
        *("breaker", "holds", "known_verdicts", "spending", "strict_json", "transaction", "user_ids"),
        *("verdict", "verify_body"),
    ),
    "gateway/database": ("pipeline", "postgres_arrays"),
    "gateway/observe": ("accumulators", "ids"),
    "gateway/proxy": (
        *("body", "call", "completion", "endings", "endpoint", "forwarding", "headers", "own_fields", "paths"),
        *("routes", "settlement"),
    ),
    "gateway/server": (
        *("chunked", "connection", "exchange", "framing", "head", "intake", "listener", "protocol", "response"),
    ),
    "gateway/upstreams": (
        *("http1", "http1_connection", "http1_response", "member", "pairs", "pool", "request_head", "response_parser"),
        *("retry_budget", "rpc", "transport", "upstream", "whole_response"),
    ),
}
"""By folder. Classes that inherit from one another are all here or none of them."""

MODULES = [f"{folder}/{name}.py" for folder, names in COMPILED.items() for name in names]


def check_compiler() -> None:
    """End with one line where the C compiler or Python's headers are missing."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    header = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which(compiler) is None:
        sys.exit(f"GATEWAY_COMPILE needs a C compiler: {compiler} is not there (Debian: apt-get install gcc libc6-dev)")
    if not header.exists():
        sys.exit(f"GATEWAY_COMPILE needs Python's headers: {header} is not there (Debian: apt-get install python3-dev)")


def main() -> None:
    from setuptools import setup

    # Of what pip asks for, only the wheel itself has to be compiled.
    if os.environ.get("GATEWAY_COMPILE") != "1" or "bdist_wheel" not in sys.argv:
        setup()
        return
    check_compiler()
    from mypyc.build import mypycify

    # The checks of `make check` are not for here: only the types count, and foreign ones may be missing.
    options = ["--config-file=", "--ignore-missing-imports", "--python-version=3.11", *MODULES]
    # In a folder of its own: what an earlier build has left in build/ would come into the wheel.
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        extensions = mypycify(options, opt_level="3", debug_level="0", group_name="gateway", target_dir=folder)
        setup(ext_modules=extensions, options={"build": {"build_base": folder}})


if __name__ == "__main__":
    main()
