"""The Dockerfile's steps, run for real, and its last stage as a cluster would run it: `make test-image`.

Opt-in: it needs root on a Debian with ``debootstrap`` and ``buildah`` (apt-get install debootstrap buildah), a network,
6 GB of disk and a quarter of an hour; no daemon, no namespaces of users. The base image is not pulled: a Debian of the
same release with its Python stands in for it, under its name. Packages come from where pip and apt are told to get
them here (``pip config``; ``DEBIAN_MIRROR`` for debootstrap).

``CELL_INGEST_IMAGE_ROOT`` names the root folder of an image that is there already, to be tried without building one.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import anndata
import pytest

import ingest

pytestmark = [pytest.mark.image, pytest.mark.timeout(3600)]

ROOT = Path(ingest.__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
BASE = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)[1]

CONTAINED = r"""
root=$1; dest=$2; shift 2
ip link set lo up
[ -e "$root/etc/hosts" ] || : >"$root/etc/hosts"
mount --bind "$root" "$root"
mount --bind /etc/hosts "$root/etc/hosts" # which a runtime brings along
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777,size=512m tmpfs "$root/dev/shm"
for device in null zero full random urandom; do
  touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t tmpfs tmpfs "$root/mnt"; mkdir "$root/mnt/dest"; mount --bind "$dest" "$root/mnt/dest"
mount -t proc proc "$root/proc"
exec chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --bounding-set=-all --inh-caps=-all \
  --no-new-privs /usr/bin/env -i "$@"
"""
"""What `docker run --read-only --cap-drop ALL --network none --tmpfs /tmp --volume DEST` comes to."""


class Image(NamedTuple):
    """An image's files, and how it is told to run."""

    root: Path
    environment: list[str]

    def run(self, dest, *command):
        """Run a command as the image's user, who may write to /tmp and `dest` and has no capability."""
        namespaces = ["--mount", "--pid", "--net", "--fork", "--propagation", "private"]
        outer = ["unshare", *namespaces, "bash", "-euc", CONTAINED, "bash"]
        return subprocess.run(
            [*outer, str(self.root), str(dest), *self.environment, *command],
            capture_output=True,
            text=True,
            check=False,
        )


def stated_environment():
    """Return the variables of the last stage as the Dockerfile has them."""
    last = re.sub(r"\\\n", " ", DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :])
    settings = dict(
        line.removeprefix("ARG ").split("=", 1) for line in re.findall(r"^ARG \S+=\S+$", last, re.MULTILINE)
    )
    found = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    for word in shlex.split(re.search(r"^ENV (.*)$", last, re.MULTILINE)[1]):
        name, _, value = word.partition("=")
        known = {**settings, **found}
        found[name] = re.sub(r"\$\{?(\w+)\}?", lambda match, known=known: known[match[1]], value)
    return [f"{name}={value}" for name, value in found.items()]


def test_the_environment_is_read_as_docker_reads_it():
    found = dict(word.split("=", 1) for word in stated_environment())
    assert found["PATH"].startswith("/opt/cell-ingest/bin:/usr/")
    assert (found["NUMBA_CPU_NAME"], found["NUMBA_CPU_FEATURES"]) == ("x86-64-v3", "")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    there = os.environ.get("CELL_INGEST_IMAGE_ROOT")
    if there:
        yield Image(Path(there), stated_environment())
        return
    for program in ("debootstrap", "buildah"):
        if shutil.which(program) is None:
            pytest.fail(f"{program} is needed: apt-get install {program}")
    folder = tmp_path_factory.mktemp("image")
    buildah = Buildah(folder)
    try:
        buildah.name_base(debian(folder / "base"))
        buildah.build()
        yield Image(buildah.mounted("cell-ingest"), stated_environment())
    finally:
        buildah.remove_all()
        shutil.rmtree(folder)


def call(*words, **more):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, text=True, check=False, **more)
    assert done.returncode == 0, f"{words[0]} failed: {done.stdout[-4000:]}"
    return done.stdout.strip()


def debian(folder):
    """Return a Debian of the base image's release with its Python and pip, `python` under /usr/local/bin."""
    mirror = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
    packages = "ca-certificates,python3,python3-pip,python3-venv"
    call("debootstrap", "--variant=minbase", f"--include={packages}", BASE.rpartition("-")[2], folder, mirror)
    version = re.search(r":(3\.\d+)-", BASE)[1]
    for name in ("python", "python3"):
        (folder / "usr/local/bin" / name).symlink_to(f"/usr/bin/python{version}")
    return folder


class Buildah:
    """buildah with a storage of its own, which goes with the test."""

    def __init__(self, folder):
        self.folder = folder
        # Unix sockets and mounts below have long names.
        self.store = ["--root", folder / "store", "--runroot", folder / "run", "--storage-driver", "overlay"]

    def __call__(self, *words):
        return call("buildah", *self.store, *words)

    def name_base(self, root):
        container = self("from", "scratch")
        call("tar", "-C", root, "-cf", self.folder / "base.tar", ".")
        self("add", container, self.folder / "base.tar", "/")
        path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self("config", "--env", f"PATH={path}", container)
        self("commit", "--rm", "-q", container, f"docker.io/library/{BASE}")
        (self.folder / "base.tar").unlink()
        shutil.rmtree(root)

    def build(self):
        where = [word for path in self._pip() for word in ("--volume", f"{path[0]}:{path[1]}:ro")]
        self(
            "bud", "--isolation", "chroot", "--pull-never", *where, "-t", "cell-ingest", "-f", ROOT / "Dockerfile", ROOT
        )

    def _pip(self):
        """Yield (here, there): pip's settings as it has them here, and the certificates that they name."""
        said = dict(re.findall(r"^\S+?\.(index-url|cert|proxy)='(.*)'$", call("pip", "config", "list"), re.MULTILINE))
        config = self.folder / "pip.conf"
        config.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in said.items()))
        yield config, "/etc/pip.conf"
        if "cert" in said:
            yield said["cert"], said["cert"]

    def mounted(self, name):
        return Path(self("mount", self("from", name)))

    def remove_all(self):
        self("rm", "--all")
        self("rmi", "--all", "--force")


@pytest.fixture
def dest(tmp_path):
    folder = tmp_path / "dest"
    folder.mkdir()
    os.chown(folder, 10001, 10001)
    return folder


def test_the_demo_runs_where_nothing_but_tmp_and_dest_can_be_written(image, dest):
    script = """
        touch /opt/x /x 2>/dev/null; grep -q '^CapBnd:\\s0*$' /proc/self/status || exit 9
        python -m ingest demo /mnt/dest/demo --cells 6000 --genes 5000 -d 2 || exit
        echo "compiled: $(find /tmp/numba -type f | wc -l), brought: $(find /tmp/numba -type l | wc -l)"
        id -u
    """
    for _ in range(3):
        done = image.run(dest, "bash", "-c", script)
        if "timed out during startup" not in done.stderr:  # Ray gives itself 30 s, which a busy machine does not have
            break
    assert done.returncode == 0, done.stderr
    *_, kernels, user = done.stdout.split("\n")[:-1]
    assert user == "10001"
    assert not (image.root / "x").exists()
    compiled, brought = map(int, re.findall(r"\d+", kernels))
    assert compiled == 0
    assert brought > 50
    chunks = sorted((dest / "demo" / "dataset" / "chunks").glob("*.h5ad"))
    assert sum(anndata.read_h5ad(chunk).n_obs for chunk in chunks) > 1000


def test_another_cpu_finds_the_kernels_too(image, dest):
    """The key under which numba looks for them names no CPU but the one that the image says."""
    script = """
from numba.core.registry import cpu_target
from ingest.warm import compile_kernels
import time
begin = time.process_time()
compile_kernels()
print(cpu_target.target_context.codegen().magic_tuple()[1:], time.process_time() - begin)
"""
    done = image.run(dest, "python", "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("('x86-64-v3', '')")


def test_libraries_that_lost_their_symbols_still_work(image, dest):
    script = """
import h5py, hdf5plugin, numcodecs, numpy as np, zstandard
values = np.arange(10_000, dtype=np.int32)
with h5py.File("/tmp/x.h5", "w") as file:
    for codec in (hdf5plugin.Zstd, hdf5plugin.LZ4, hdf5plugin.Blosc, hdf5plugin.Blosc2, hdf5plugin.Bitshuffle):
        file.create_dataset(codec.__name__, data=values, chunks=(1_000,), **codec())
with h5py.File("/tmp/x.h5") as file:
    assert all((file[name][:] == values).all() for name in file)
for codec in (numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.LZ4()):
    assert (np.frombuffer(codec.decode(codec.encode(values)), np.int32) == values).all()
assert zstandard.decompress(zstandard.compress(values.tobytes())) == values.tobytes()
"""
    done = image.run(dest, "python", "-c", script)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shell", ["-c", "-lc", "-ce", "-cel"])
def test_what_kuberay_calls_is_there(image, dest, shell):
    """Its commands, its probes (wget until 1.5, python from then on) and its init container, by each kind of shell."""
    script = """
        command -v ray; command -v wget; command -v grep; command -v python3
        python3 -c 'import urllib.request, ingest'
        ray kuberay-autoscaler --help >/dev/null
        ray health-check --address 127.0.0.1:1 >/dev/null 2>&1 || echo unhealthy
        ulimit -n 65536 2>/dev/null || true
        ray start --help | grep -q -- --block && echo starts
    """
    done = image.run(dest, "bash", shell, "--", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:1] == ["/opt/cell-ingest/bin/ray"]
    assert done.stdout.split("\n")[-3:] == ["unhealthy", "starts", ""]


def test_it_is_a_head_as_kuberay_starts_it(image, dest):
    """Its command is process 1, so SIGTERM reaches Ray, which drains; its probes find it well; no token, no job."""
    script = r"""
        export RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | base64 | tr -d '=+/\n')
        bash -c -- "ulimit -n 65536; ray start --head --block --num-cpus=0 --object-store-memory=100000000 \
          --dashboard-host=0.0.0.0 --dashboard-agent-listen-port=52365 --metrics-export-port=8080 --no-monitor \
          --node-ip-address=127.0.0.1" >/tmp/head.log 2>&1 &
        head=$!
        for second in $(seq 300); do
          wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep -q success &&
          wget --tries 1 -T 2 -q -O- http://localhost:8265/api/gcs_healthz | grep -q success &&
          { echo healthy; break; }
          sleep 1
        done
        ray health-check --address 127.0.0.1:6379 2>/dev/null && echo ready
        RAY_AUTH_TOKEN=wrong ray job list --address http://127.0.0.1:8265 >/dev/null 2>&1 || echo refused
        ray job submit --address http://127.0.0.1:8265 -- python -m ingest --help 2>&1 | grep -o succeeded
        tr '\0' ' ' </proc/$head/cmdline | grep -q 'ray start' && echo first
        kill -TERM $head; wait $head
        grep -o 'finished draining' /tmp/head.log
    """
    done = image.run(dest, "bash", "-c", script)
    assert done.stdout.split("\n")[:-1] == ["healthy", "ready", "refused", "succeeded", "first", "finished draining"]


def test_nothing_is_left_to_compile_or_install_with(image, dest):
    done = image.run(dest, "bash", "-c", "for each in cc gcc g++ ld as make; do command -v $each; done; python -m pip")
    assert done.stdout == ""
    assert "No module named pip" in done.stderr


def test_the_image_is_small_and_says_of_what_it_is(image):
    sizes = {name: int(call("du", "-sm", image.root / name).split()[0]) for name in ("", "opt/cell-ingest")}
    assert sizes[""] < 1_650, sizes
