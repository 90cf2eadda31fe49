# One image for the driver, the Ray head and the workers. Dependencies are pinned by constraints.txt.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ingest ingest
COPY index index
COPY actors actors
RUN python -m venv /opt/cell-ingest \
 && /opt/cell-ingest/bin/pip install --no-cache-dir --constraint constraints.txt '.[hvg]'

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home ingest
COPY --from=build /opt/cell-ingest /opt/cell-ingest
# The root file system may be read-only: compiled kernels, caches and scratch go below /tmp, which is mounted writable.
ENV PATH=/opt/cell-ingest/bin:$PATH \
    HOME=/tmp \
    NUMBA_CACHE_DIR=/tmp/numba \
    MALLOC_ARENA_MAX=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    RAY_AUTH_MODE=token \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false
USER 10001
ENTRYPOINT ["python", "-m", "ingest"]
CMD ["--help"]
