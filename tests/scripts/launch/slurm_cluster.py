"""A real Slurm on this machine, for tests: its controller and two nodes of one core, started and stopped.

Needs root and Debian's `slurm-wlm` and `munge`; everything listens on addresses of this machine.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")

CONF = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdTimeout=20
KillWait=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=4000
PartitionName=p Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def is_installed():
    """Whether Slurm can be started here."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in PROGRAMS)


class SlurmCluster:
    """Controller and nodes n1 and n2, as a context.

    Args:
        folder: New folder for configuration, state and logs, which the user `munge` can enter.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        self.nodes = {}
        self._started = []

    def __enter__(self):
        self._start_munge()
        host = socket.gethostname().partition(".")[0]
        ports = dict(zip(("port", "n1", "n2"), _free_ports(3), strict=True))
        (self.folder / "state").mkdir()
        conf = CONF.format(host=host, folder=self.folder, **ports)
        (self.folder / "slurm.conf").write_text(conf)
        try:
            self._start("slurmctld", "-D")
            for name in ("n1", "n2"):
                self.start_node(name)
            self.wait_until(lambda: self.states() == {"n1": "idle", "n2": "idle"})
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in list(self.nodes):
            self.vanish(name)
        for process in reversed(self._started):
            process.terminate()
            process.wait(timeout=30)

    def start_node(self, name):
        """Start the daemon of a node."""
        self.nodes[name] = self._start("slurmd", "-D", "-N", name)

    def vanish(self, name):
        """End a node as a power failure does: its daemon, its jobs and all their processes."""
        daemon = self.nodes.pop(name)
        jobs = self.ask("squeue", "--noheader", f"--nodelist={name}", "--format=%A").split()
        daemon.kill()
        daemon.wait()
        self._started.remove(daemon)
        for number in _processes_of(jobs):
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return jobs

    def ask(self, *command):
        """Return what one of Slurm's programs prints."""
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env=self.environment
        ).stdout

    def states(self):
        """State of each node, as `sinfo` names it."""
        lines = self.ask("sinfo", "-N", "--noheader", "--format=%N %t").splitlines()
        return dict(line.split() for line in lines)

    def wait_until(self, condition, seconds=60):
        """Wait for a condition, which may fail before it holds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except subprocess.CalledProcessError:
                pass
            time.sleep(0.2)
        raise TimeoutError(f"not within {seconds} s; logs are in {self.folder}")

    def _start(self, *command):
        log = (self.folder / f"{command[0]}.out").open("ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environment)
        log.close()
        self._started.append(process)
        return process

    def _start_munge(self):
        folder = self.folder / "munge"
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._start(
            *("munged", "--foreground", "--force", f"--key-file={key}"),
            *(f"--socket={folder}/socket", f"--pid-file={folder}/pid"),
            *(f"--log-file={folder}/log", f"--seed-file={folder}/seed"),
        )
        self.wait_until((folder / "socket").exists)


def _free_ports(count):
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _processes_of(jobs):
    """Numbers of the processes of jobs: those that have Slurm's variable, and their step daemons."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = (path / "environ").read_bytes().split(b"\0")
            command = (path / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # ended
            continue
        number = re.match(r"slurmstepd: \[(\d+)\.", command)
        if (number and number[1] in jobs) or any(
            f"SLURM_JOB_ID={job}".encode() in variables for job in jobs
        ):
            found.append(int(path.name))
    return found
