"""Jobs: submitted, dispatched, executed as Ansible runs, and their outcome."""
