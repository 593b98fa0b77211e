# One image for `serve`, `worker` and `migrate`. The base is an argument: any image with Python 3.11 or newer and its
# venv module as `python3` will do, since psycopg2's wheel brings its own libpq and nothing is compiled.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
RUN python3 -m venv /opt/faro
COPY constraints.txt ./
COPY pyproject.toml setup.cfg README.md ./
COPY api api
COPY conversations_api conversations_api
COPY delivery delivery
COPY handlers handlers
COPY persistence persistence
COPY tenancy tenancy
# Installers are of no use to a running service, but of much use to whoever breaks into one.
RUN /opt/faro/bin/python -m pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[tracing]" \
    && /opt/faro/bin/python -m pip uninstall -y setuptools pip

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin faro
COPY --from=build /opt/faro /opt/faro
ENV PATH=/opt/faro/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PORT=8080
# By number, so that an orchestrator which demands a non-root user can tell that this is one.
USER 10001:10001
WORKDIR /
EXPOSE 8080
# Alive, not ready: a database that is away must not get the API restarted. A container that runs the worker overrides it.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/api/v1/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["conversations-api"]
CMD ["serve"]
