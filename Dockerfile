# Server on a slim Python image, run as user 10001. Streams are in /data: mount a volume there.
#     docker build --tag durable-streams .
#     docker run --publish 4437:4437 --volume streams:/data durable-streams

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# All dependencies have wheels, so no compiler is needed. twistd caches its list of plugins here,
# because the server's user could not write it later.
RUN python -m venv /opt/durable-streams \
 && /opt/durable-streams/bin/pip install --no-cache-dir '.[postgres,tracing]' \
 && /opt/durable-streams/bin/pip uninstall --yes pip \
 && /opt/durable-streams/bin/twistd --help > /dev/null

FROM python:3.13-slim
COPY --from=build /opt/durable-streams /opt/durable-streams
# A numeric user, so that Kubernetes (runAsNonRoot) can verify that it is not root.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
ENV PATH=/opt/durable-streams/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DURABLE_STREAMS_DATA_DIR=/data/streams
# The image's standard library has no bytecode files, and the server's user could not write them:
# every start and every health check would compile the modules again.
RUN python -c "import urllib.request, twisted.internet.reactor, durable_streams_tw.service.make_service, \
durable_streams_tw.storage.durable.store, durable_streams_tw.storage.postgres.store"
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 4437
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:4437/-/ready', timeout=4)"]
# Exec form, so that the server receives SIGTERM itself.
ENTRYPOINT ["durable-streams-server"]
CMD ["run"]
