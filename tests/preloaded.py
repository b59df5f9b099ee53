"""The `gateway` command, or a module of the tests, in a process of its own: forked from one that has imported it all.

Importing the gateway takes Python longer than most tests take, and the tests start hundreds of them. So the first start
of a test process runs this file as a parent that imports everything, and from then on forks. What it forks is a process
like any other and a child of the test's: it is waited for, killed and looked at. Only its command line is the parent's:
whoever tests that, or the installed command, or an interpreter's options, starts it for real.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import certifi

from tests.authorities import share_authorities

ROOT = Path(__file__).parents[1]
MODULES = ("gateway.app", "gateway.cli.main", "gateway.cli.stand_in", "gateway.server.serve")
MESSAGE_MAX_BYTES = 1 << 20
PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): who loses its parent becomes a child of this process, if it descends from it."""


class Popen(subprocess.Popen[Any]):
    """subprocess.Popen for `python -m module …`; any other first word stands for the gateway's command."""

    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any,
        startupinfo: Any, creationflags: Any, shell: Any, p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int,
        errread: int, errwrite: int, restore_signals: Any, gid: Any, gids: Any, uid: Any, umask: Any,
        start_new_session: Any, *rest: Any,
    ) -> None:  # fmt: skip
        """Instead of fork and exec."""
        assert not any((shell, preexec_fn, pass_fds, gid, gids, uid)), "start it for real"
        words = [os.fsdecode(word) for word in args]
        module = words[2] if words[1:2] == ["-m"] else ""
        order = {
            "module": module,
            "arguments": words[3:] if module else words[1:],
            "cwd": os.fspath(cwd or Path.cwd()),
            "environ": dict(os.environ if env is None else env),
            "is_session": start_new_session,
        }
        files = [fd if fd >= 0 else own for own, fd in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = _parent().fork(order, files)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def run(args: Sequence[Any], *, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[Any]:
    """subprocess.run with that."""
    if options.pop("capture_output", False):
        options["stdout"] = options["stderr"] = subprocess.PIPE
    check = options.pop("check", False)
    with Popen(args, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


class _Parent:
    """The process that forks, as the test process has it. It ends with the test process."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.preloaded", str(theirs.fileno())], cwd=ROOT, pass_fds=[theirs.fileno()]
            )

        atexit.register(self.close)

    def close(self) -> None:
        self._orders.close()
        self._process.wait()

    def fork(self, order: dict[str, Any], files: list[int]) -> int:
        """The new process's id."""
        adopt = ctypes.CDLL(None).prctl
        message = json.dumps(order).encode()
        adopt(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(self._orders, [len(message).to_bytes(4, "big") + message], files)
            answer = self._orders.recv(4)
        finally:
            # Orphans of the gateway's go to whoever takes the orphans in life.
            adopt(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert answer, "the process that forks is gone"
        return int.from_bytes(answer, "big")


@cache
def _parent() -> _Parent:
    return _Parent()


def _serve(orders: socket.socket) -> str:
    """Fork for each order. Returns in the forked process, with the module that it is to run, and never in this one."""
    for name in MODULES:
        importlib.import_module(name)
    from gateway.api.build import openapi_document
    from gateway.cli.main import command_line

    # What the first use makes, each of what is forked would make anew.
    share_authorities()
    ssl.create_default_context(cafile=certifi.where())
    openapi_document()
    command_line()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        message, files, _, _ = socket.recv_fds(orders, MESSAGE_MAX_BYTES, 3)
        if not message:
            sys.exit()
        while len(message) < 4 + int.from_bytes(message[:4], "big"):
            message += orders.recv(MESSAGE_MAX_BYTES)
        told, tell = os.pipe()
        between = os.fork()
        if not between:
            child = os.fork()
            if child:
                # Who is between ends, so that the child is the test process's.
                os.write(tell, child.to_bytes(4, "big"))
                os._exit(0)
            for fd in (told, tell):
                os.close(fd)
            orders.close()
            return _become(json.loads(message[4:]), files)
        os.waitpid(between, 0)
        orders.sendall(os.read(told, 4))
        for fd in (told, tell, *files):
            os.close(fd)


def _become(order: dict[str, Any], files: list[int]) -> str:
    """What was ordered; the module that is to run."""
    if order["is_session"]:
        os.setsid()
    for own, fd in enumerate(files):
        os.dup2(fd, own)
        os.close(fd)
    # Like a new interpreter's; the parent's know what its own files were.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open for life
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environ"])
    sys.argv = [order["module"] or "gateway", *order["arguments"]]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return str(order["module"])


def _leave(told: SystemExit) -> None:
    """End as an interpreter does, but for taking apart what the parent imported: a quarter of a short life."""
    if not isinstance(told.code, int | None):
        raise told
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        raise told from None
    os._exit(told.code or 0)


if __name__ == "__main__":
    wanted = _serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        if wanted:
            runpy.run_module(wanted, run_name="__main__", alter_sys=True)
        else:
            importlib.import_module("gateway.cli.main").main()
        sys.exit()
    except SystemExit as told:
        _leave(told)
