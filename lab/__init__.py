"""Lab: several real hypervisors on one machine, each a set of Linux namespaces reached by SSH.

`python -m lab up` is for people, `Lab` for tests and benchmarks. Every lab is run by one
supervisor process (`supervisor.py`) that has started all of its processes, and therefore can end
all of them; `Lab` and the command line only talk to it. The supervisor claims a slot (`slot.py`:
addresses and bridge), lays out a directory (`directory.py`: keys, inventory, record), starts
`host-init.sh` once a host, and, unless told otherwise, runs the playbooks that prepare
hypervisors (`prepare.py`).

Where things are not as on a real host: all hosts share the machine's kernel, its programs
(read-only) and /tmp; there is no systemd, no cgroup, no KVM and no way to the internet.
"""

from lab.lab import Host, Lab, LabError

__all__ = ["Host", "Lab", "LabError"]
