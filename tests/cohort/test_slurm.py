"""The SLURM script of the documentation, word for word, on a SLURM of this machine.

A controller and two nodes with a made-up GPU each are started here. It needs root, the Debian
packages slurmctld, slurmd, slurm-client and munge, and ``pip install dask-jobqueue``, and takes a
minute, so it is done where NAPARI_2DMAMBA_SLURM=1 is set.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_2dmamba.cohort import read_cohort
from tests.tiny import write_checkpoint, write_slide

SLIDES = 6
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "cohorts.md"
CONFIGURATION = """
ClusterName=check
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs=8 RealMemory=64000 Gres=gpu:1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=24:00:00 State=UP
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(what: str, *command: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if what in found.stdout:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if os.environ.get("NAPARI_2DMAMBA_SLURM") != "1":
        pytest.skip("takes a minute; set NAPARI_2DMAMBA_SLURM=1")
    pytest.importorskip("dask_jobqueue")
    programs = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "sinfo", "squeue")
    missing = [name for name in programs if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root, and {', '.join(missing) or 'nothing else'}")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = Path(name)  # a short one: names of sockets end after 108 characters
        for below in ("state", "spool-n1", "spool-n2"):
            (folder / below).mkdir()
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        (folder / "gres.conf").write_text("NodeName=n[1-2] Name=gpu File=/dev/null\n")
        (folder / "slurm.conf").write_text(
            CONFIGURATION.format(folder=folder, host=socket.gethostname(), ports=free_ports(3))
        )
        monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))

        def start(*command: str) -> None:
            log = running.enter_context((folder / f"{command[0]}.out").open("ab"))
            process = subprocess.Popen(command, stdout=log, stderr=log)
            running.callback(process.wait, 30)
            running.callback(process.terminate)

        start("munged", "--foreground", "--force", f"--key-file={folder}/key",
              f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
              f"--log-file={folder}/munged.log", f"--seed-file={folder}/seed")  # fmt: skip
        wait_for("munge.socket", "ls", str(folder))
        start("slurmctld", "-D")
        start("slurmd", "-D", "-N", "n1")
        start("slurmd", "-D", "-N", "n2")
        wait_for("2\n", "sinfo", "--noheader", "--states=idle", "--format=%D")
        yield
        subprocess.run(["scancel", "--user=root"], check=False)
        wait_for("2\n", "sinfo", "--noheader", "--states=idle", "--format=%D")


@pytest.mark.timeout(400)
def test_the_script_of_the_documentation(slurm: None, tmp_path: Path) -> None:
    found = re.search(
        r"```python\n(from dask_jobqueue.*?)```", DOCUMENTATION.read_text(), re.DOTALL
    )
    assert found is not None
    (tmp_path / "script.py").write_text(found[1])
    (tmp_path / "scans").mkdir()
    names = [write_slide(tmp_path / "scans" / f"{n}.tif", seed=n).name for n in range(SLIDES)]
    lines = ["slide,label", *(f"scans/{name},tumour" for name in names)]
    (tmp_path / "cohort.csv").write_text("\n".join(lines))
    write_checkpoint(tmp_path / "model.safetensors")
    with subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as script:
        # the first job is lost as soon as it is at work, as by its walltime
        deadline = time.monotonic() + 120
        while not list((tmp_path / "runs").glob("*/status.json")):
            assert script.poll() is None, script.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        jobs = subprocess.run(
            ["squeue", "--noheader", "--states=running", "--format=%A %b"],
            capture_output=True, text=True, check=True,
        ).stdout.split("\n")  # fmt: skip
        first, wants = sorted(jobs)[1].split()
        assert "gpu" in wants
        subprocess.run(["scancel", first], check=True)
        said, _ = script.communicate(timeout=240)
    assert script.returncode == 0, said
    assert f"{SLIDES} slides: {SLIDES} done" in said
    rows = read_cohort(tmp_path / "runs").rows
    assert [(row.name, row.state, row.label) for row in rows] == [
        (name, "done", "tumour") for name in names
    ]
    assert all(row.result["prediction"] for row in rows)
