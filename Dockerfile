# The wheel is built apart, so that no build tool is in the image that runs.
FROM python:3.13-slim AS build
WORKDIR /source
COPY requirements-dev.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-dev.lock
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY alembic ./alembic
COPY tests/contracts/artifacts ./tests/contracts/artifacts
COPY src ./src
RUN pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheel .

FROM python:3.13-slim

# ping is for operators: "can this container reach redis?" Its version is not pinned: Debian drops the old ones.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends iputils-ping \
    && rm -rf /var/lib/apt/lists/* \
    # A user with a name: the embedded PostgreSQL knows its users by name.
    && useradd --system --user-group --uid 10001 --create-home agentauri \
    && install -d -o agentauri -g agentauri -m 0700 /data

COPY requirements.lock /tmp/
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/requirements.lock && rm /tmp/requirements.lock
COPY --from=build /wheel /tmp/wheel
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps /tmp/wheel/*.whl

# 0.0.0.0 here is the container's own network.
ENV AGENTAURI_DATA_DIR=/data \
    SERVER_HOST=0.0.0.0 \
    PYTHONUNBUFFERED=1
WORKDIR /home/agentauri
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM

# Only processes with the role http answer there; where it does not run, the check is to ask at METRICS_PORT, as in
# compose.yaml, or to be switched off.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + (os.environ.get('SERVER_PORT') or '8080') + '/health/live', timeout=4)"]

ENTRYPOINT ["agentauri"]
CMD ["serve"]
