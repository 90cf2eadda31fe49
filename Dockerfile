# One image for the driver, the Ray head and the workers: docs/deploy.md says how it is built, pinned and run.
#
# A tag can be moved, a digest cannot: pin it with
#   --build-arg BASE=python:3.11-slim-bookworm@sha256:…     (docker buildx imagetools inspect python:3.11-slim-bookworm)
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY constraints.txt pyproject.toml ./
# Dependencies first: another version of the source does not fetch them again. Without pip: nothing is installed into a
# running container.
RUN python -m venv --without-pip /opt/cell-ingest \
 && python -c "import tomllib; about = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*about['dependencies'], *about['optional-dependencies']['hvg'], sep='\n')" > requirements.txt \
 && pip --python /opt/cell-ingest/bin/python install --no-cache-dir --constraint constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY ingest ingest
COPY index index
COPY actors actors
RUN pip --python /opt/cell-ingest/bin/python install --no-cache-dir --no-deps .
# Code is kept under the name of the CPU that it is for. Every x86-64 that tiledbsoma's wheels run on is at least this
# one, so what is compiled here is found wherever the image runs; on ARM: --build-arg NUMBA_CPU=generic.
ARG NUMBA_CPU=x86-64-v3
RUN export NUMBA_CACHE_DIR=/opt/cell-ingest/kernels NUMBA_CPU_NAME=${NUMBA_CPU} NUMBA_CPU_FEATURES= HOME=/tmp \
 && cd / \
 && /opt/cell-ingest/bin/python -m ingest.warm \
 && /opt/cell-ingest/bin/python -c 'import ingest.testing.census_counts'
# What nothing imports, and what only a debugger reads: tests of dependencies, headers, static libraries, 220 MB of symbols.
RUN apt-get update && apt-get install --yes --no-install-recommends binutils \
 && cd /opt/cell-ingest/lib/python3*/site-packages \
 && find h5py matplotlib networkx numba numpy pandas pyarrow scipy shapely sklearn statsmodels -type d -name tests \
    -prune -exec rm -r {} + \
 && rm -r pyarrow/include \
 && find . -name '*.a' -delete \
 && find hdf5plugin numcodecs zstandard -name '*.so' -exec strip --strip-debug {} +

FROM ${BASE}
# KubeRay's probes are `bash -c "wget …"` until 1.5, python from then on. Where its ENABLE_LOGIN_SHELL is set, it starts
# Ray from a login shell, which sets PATH anew. The base brings pip and what else installs packages, for its own Python.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
 && rm -rf /usr/local/bin/pip* /usr/local/bin/wheel /usr/local/lib/python3*/site-packages/* \
    /usr/local/lib/python3*/ensurepip \
 && useradd --uid 10001 --no-create-home --home-dir /tmp ingest \
 && echo 'PATH=/opt/cell-ingest/bin:$PATH' > /etc/profile.d/cell-ingest.sh
COPY --from=build /opt/cell-ingest /opt/cell-ingest
ARG NUMBA_CPU=x86-64-v3
# The root file system may be read-only: caches and scratch go below /tmp, which is mounted writable. Compiled kernels
# are read where they are (ingest/baked_kernels.py).
ENV PATH=/opt/cell-ingest/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    CELL_INGEST_KERNELS=/opt/cell-ingest/kernels \
    NUMBA_CACHE_DIR=/tmp/numba \
    NUMBA_CACHE_LOCATOR_CLASSES=ingest.baked_kernels.BakedKernels,InTreeCacheLocator,UserWideCacheLocator \
    NUMBA_CPU_NAME=${NUMBA_CPU} \
    NUMBA_CPU_FEATURES= \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    RAY_AUTH_MODE=token \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_USAGE_STATS_ENABLED=0 \
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["python", "-m", "ingest"]
CMD ["--help"]
