"""Tests: runs Ansible in forks of processes that have already loaded it.

A start of ansible-playbook takes 1.7 s of CPU, most of it before the first task. `environment.py`
creates a virtual environment in which Ansible's programs are `front.py`, which sends its arguments,
environment, directory and streams to `server.py`. The server has already run a playbook, and forks
for each further run. Everything that starts `sys.executable` or a program beside it, including the
jobs of the service, uses that environment. A test about processes (which one is killed, which one
remains, which program is found on PATH) uses the fixture `cold_ansible`, with the real start.

A module that observes a host takes 0.48 s of CPU there, 0.4 s of it to start Python and to compile
and import the module's files. `hosts.py` gives the hosts of a lab a Python, `module_front.py`, that
sends the module to `module_server.py`, which has imported these files and forks for each module. A
module whose files differ from the imported ones runs in a Python of its own. The labs that tests
start themselves have the real Python only.
"""

PROGRAMS = ("ansible-config", "ansible-inventory", "ansible-playbook")
