"""Tests: runs of ansible-playbook that begin in a process in which Ansible is loaded already.

A start of ansible-playbook costs 1.7 s of CPU, most of it before the first task. `environment.py`
gives the tests an environment of programs whose `ansible-playbook` is `front.py`: it hands its
arguments, environment, directory and streams to `server.py`, which has run a playbook before and
forks for this one. Whatever starts `sys.executable` or a program beside it, the service's jobs too,
uses that environment. A test about processes (who is killed, what is left, what is found on PATH)
asks for the fixture `cold_ansible` and gets the real start.
"""
