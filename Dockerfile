# The image runs as a numeric user without privileges, needs no shell, and takes a read-only root file system: it writes to
# /data (the database) and /dev/shm (numbers that workers share) only. docs/operations.md has the command line for it.

# Pin it by digest where you build: --build-arg BASE=python:3.11-slim@sha256:…
ARG BASE=python:3.11-slim
# The same Debian and Python with a C compiler: the hot path is compiled. Nothing of it is in the image.
ARG BUILD_BASE=python:3.11

FROM ${BUILD_BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/gateway && python -m venv /opt/build
# `otel` has what `telemetry` in the config needs, too.
ARG REQUIREMENTS=runtime
COPY requirements/runtime.txt requirements/otel.txt requirements/build.txt requirements/
RUN /opt/gateway/bin/python -m pip install --require-hashes --only-binary :all: -r requirements/${REQUIREMENTS}.txt \
    && /opt/build/bin/python -m pip install --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY gateway gateway
# The compiler reads the types of what the gateway stands on. (Behind its own packages, as PYTHONPATH would not be.)
RUN /opt/gateway/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        > "$(/opt/build/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gateway.pth" \
    && GATEWAY_COMPILE=1 /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/gateway/bin/python -m pip install --no-deps --no-index dist/*.whl \
    && /opt/gateway/bin/python -m compileall -q /opt/gateway \
    && /opt/gateway/bin/python -m pip uninstall --yes --quiet pip setuptools \
    && mkdir /data

FROM ${BASE}
COPY --from=build /opt/gateway /opt/gateway
COPY --from=build --chown=65532:65532 --chmod=700 /data /data
ENV PATH=/opt/gateway/bin:$PATH PYTHONDONTWRITEBYTECODE=1 TMPDIR=/dev/shm
# `sqlite:///data/gateway.db`, the default, is /data/gateway.db from here.
WORKDIR /
VOLUME /data
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080, timeout=2); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["gateway"]
CMD ["serve", "-c", "/etc/gateway/config.yaml", "--host", "0.0.0.0"]
