"""The image: nothing unpinned gets in, nobody is root in it, and its health check and its command work."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.cli.main import run
from gateway.cli.wiring import Wiring
from tests.docs.pages import ROOT

REQUIREMENTS = ROOT / "requirements"


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def last(name: str) -> str:
    return [rest for word, rest in instructions() if word == name][-1]


def final_stage() -> list[tuple[str, str]]:
    every = instructions()
    start = max(at for at, (word, _) in enumerate(every) if word == "FROM")
    return every[start:]


def test_nobody_is_root():
    users = [rest for word, rest in final_stage() if word == "USER"]
    assert users
    for user in users:
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "Kubernetes' runAsNonRoot wants a number"
    words = [word for word, _ in final_stage()]
    assert words.index("USER") < words.index("ENTRYPOINT")
    owner = next(rest for word, rest in final_stage() if word == "COPY" and rest.endswith("/data"))
    assert f"--chown={users[-1]} " in owner


def test_nothing_is_fetched_but_hashed_requirements():
    assert not [rest for word, rest in instructions() if word == "ADD"]
    commands = [command.split() for word, rest in instructions() if word == "RUN" for command in rest.split("&&")]
    installs = [words for words in commands if {"pip", "install"} <= set(words) or {"pip", "wheel"} <= set(words)]
    assert len(installs) == 4
    for words in installs:
        fetches = "-r" in words
        assert ("--require-hashes" in words) == fetches, words
        assert fetches or "--no-deps" in words, words
        assert fetches or {"--no-index", "--no-build-isolation"} & set(words), words
    fetchers = {"curl", "wget", "git", "apt-get", "apt"}
    assert not [words for words in commands if fetchers & set(words)]


def test_the_final_stage_runs_nothing_so_no_shell_is_needed():
    assert "RUN" not in [word for word, _ in final_stage()]
    for name in ("ENTRYPOINT", "CMD"):
        assert isinstance(json.loads(last(name)), list)
    assert " CMD [" in last("HEALTHCHECK")


def test_the_base_can_be_pinned_where_it_is_built():
    assert [rest for word, rest in instructions() if word == "FROM"] == ["${BUILD_BASE} AS build", "${BASE}"]
    arguments = [rest for word, rest in instructions() if word == "ARG"]
    assert {"BASE=python:3.11-slim", "BUILD_BASE=python:3.11"} <= set(arguments)


def test_it_is_stopped_by_the_signal_that_drains():
    assert last("STOPSIGNAL") == "SIGTERM"


def test_no_secret_is_built_in():
    names = {
        pair.split("=")[0] for word, rest in instructions() if word in ("ENV", "ARG") for pair in shlex.split(rest)
    }
    assert names == {
        "BASE",
        "BUILD_BASE",
        "PATH",
        "PIP_DISABLE_PIP_VERSION_CHECK",
        "PIP_NO_CACHE_DIR",
        "PYTHONDONTWRITEBYTECODE",
        "REQUIREMENTS",
        "TMPDIR",
    }


def test_what_is_copied_is_there_and_let_through():
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = {source for group in copied for source in group}
    assert sources == let_through
    for source in sources:
        assert (ROOT / source).exists(), source


def test_it_writes_to_its_volume_only():
    assert last("VOLUME") == "/data"
    assert last("WORKDIR") == "/", "the default database, data/gateway.db, is then in the volume"


def pins(file: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Version and hashes by name."""
    found = {}
    for entry in (REQUIREMENTS / file).read_text().replace("\\\n", " ").splitlines():
        if not entry or entry.lstrip().startswith("#"):
            continue
        name, version = re.match(r"([a-z0-9._-]+)==(\S+) ", entry).groups()
        found[name] = version, frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
    return found


@pytest.mark.parametrize("file", ["runtime.txt", "build.txt", "dev.txt", "bench.txt"])
def test_every_requirement_is_pinned_with_hashes(file):
    found = pins(file)
    assert found
    for name, (_, hashes) in found.items():
        assert hashes, name


@pytest.mark.parametrize("file", ["runtime.txt", "build.txt"])
def test_what_is_tested_is_what_is_shipped(file):
    assert pins(file).items() <= pins("dev.txt").items()


@pytest.mark.parametrize("file", sorted(REQUIREMENTS.iterdir()), ids=lambda file: file.name)
def test_requirements_name_no_place_to_fetch_from(file):
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert not re.search(r"https?:|file:| @ |--(extra-)?index-url|--find-links|--trusted-host", "\n".join(lines))


def test_the_command_of_the_image_is_one_of_ours():
    assert json.loads(last("ENTRYPOINT")) == ["gateway"]
    config = ROOT / "config.yaml"
    arguments = [str(config) if word == "/etc/gateway/config.yaml" else word for word in json.loads(last("CMD"))]
    served = []
    code = run(arguments, Wiring(environ={}, serve=lambda loaded, *_: served.append(loaded) or 0))
    assert code == 0
    assert served[0].server.host == "0.0.0.0"
    assert f"'127.0.0.1', {served[0].server.port}," in last("HEALTHCHECK")
    assert last("EXPOSE") == str(served[0].server.port)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_says_what_readyz_says(status, code):
    program = json.loads(re.search(r"CMD (\[.*\])", last("HEALTHCHECK"))[1])
    assert program[:2] == ["python", "-c"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = []

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)

        thread = threading.Thread(target=answer)
        thread.start()
        source = program[2].replace("8080", str(listener.getsockname()[1]))
        done = subprocess.run([sys.executable, "-c", source], timeout=20, check=False)
        thread.join()
    assert done.returncode == code
    assert asked[0].startswith(b"GET /readyz ")


def test_the_readme_of_the_package_is_copied_along():
    project = (ROOT / "pyproject.toml").read_text()
    assert 'readme = "README.md"' in project
    assert Path(ROOT / "LICENSE").read_text().lstrip().startswith("Apache License\n")
