# Two stages: build a virtual environment from the hash-checked lock, then run it as nobody special.
FROM python:3.12-slim AS build
WORKDIR /app
COPY requirements.lock pyproject.toml README.md ./
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY kernel kernel
COPY network network
COPY tracker tracker
COPY fraud fraud
COPY commissions commissions
COPY feeds feeds
COPY partner_api partner_api
COPY console console
COPY server server
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM python:3.12-slim
LABEL org.opencontainers.image.title="Tallystick" \
      org.opencontainers.image.description="Affiliate network server"
RUN useradd --uid 10001 --create-home --home-dir /data --shell /usr/sbin/nologin tallystick
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TALLYSTICK_DATA_DIR=/data/var \
    TALLYSTICK_HOST=0.0.0.0 \
    TALLYSTICK_TRUSTED_PROXIES=""
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tallystick"]
CMD ["serve"]
