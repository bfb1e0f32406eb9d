"""Starts ansible-playbook in forks of a process that has already loaded Ansible.

`client.py` is what a user or ansible-runner starts in the place of ansible-playbook, or what a
program imports to have a function called in a fork. It hands a run over through `connection.py`,
waits for it in `playbook.py`, and finds the user's own servers with `own_servers.py`.

`manager.py` starts a server, replaces it when what `watched.py` lists has changed, and ends it. The
server, `server.py`, has run a playbook once, and forks for each run with `forks.py`. `process.py`
and `terminal.py` are what a fork takes over from its client; these three know nothing of Ansible.
"""
