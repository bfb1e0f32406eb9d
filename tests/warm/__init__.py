"""Tests: runs ansible-playbook in forks of a process that has already loaded Ansible.

A start of ansible-playbook takes 1.7 s of CPU, most of it before the first task. `environment.py`
creates a virtual environment whose `ansible-playbook` is `front.py`, which sends its arguments,
environment, directory and streams to `server.py`. The server has already run a playbook, and forks
for each further run. Everything that starts `sys.executable` or a program beside it, including the
jobs of the service, uses that environment. A test about processes (which one is killed, which one
remains, which program is found on PATH) uses the fixture `cold_ansible`, with the real start.
"""
