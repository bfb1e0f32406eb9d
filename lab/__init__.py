"""Lab: several real hypervisors on one machine, each a set of Linux namespaces reached by SSH.

`python -m lab up` is for people, `Lab` for tests and benchmarks. One supervisor process
(`supervisor.py`) runs each lab. It starts all processes of the lab, so it can stop all of them;
`Lab` and the command line only control the supervisor. The supervisor claims a slot (`slot.py`:
addresses and bridge), creates a directory (`directory.py`: keys, inventory, record), starts
`host-init.sh` once per host, and by default runs the playbooks that prepare hypervisors
(`prepare.py`).

Differences from a real host: all hosts share the kernel of this machine, its programs (read-only)
and /tmp; there is no systemd, no cgroup, no KVM and no route to the internet. A host of a Debian
release has that release's programs, package database and /var instead of this machine's
(`releases.py`, `mount-root.sh`).
"""

from lab.lab import Host, Lab, LabError

__all__ = ["Host", "Lab", "LabError"]
