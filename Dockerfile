# The server on a slim Python, as a user without a name. Streams are in /data: give it a volume.
#     docker build --tag durable-streams .
#     docker run --publish 4437:4437 --volume streams:/data durable-streams

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# There are wheels for all of it, so nothing to compile with is needed. twistd leaves a list of
# plugins behind, which the server's user could not write.
RUN python -m venv /opt/durable-streams \
 && /opt/durable-streams/bin/pip install --no-cache-dir . \
 && /opt/durable-streams/bin/pip uninstall --yes pip \
 && /opt/durable-streams/bin/twistd --help > /dev/null

FROM python:3.13-slim
COPY --from=build /opt/durable-streams /opt/durable-streams
# A number, so that a host which demands a user other than root can see that it is one.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
ENV PATH=/opt/durable-streams/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DURABLE_STREAMS_DATA_DIR=/data/streams
# Python's own modules come without their compiled form here, and the server's user could not keep
# it: every start, and every look at the server's health, would compile them anew.
RUN python -c "import urllib.request, twisted.internet.reactor, durable_streams_tw.service.make_service, \
durable_streams_tw.storage.durable.store"
ENV PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 4437
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:4437/-/ready', timeout=4)"]
# The process itself gets the signals: a stop is a stop.
ENTRYPOINT ["durable-streams-server"]
CMD ["run"]
