"""The machine that the service runs on: prepares it as a hypervisor, and removes what it made."""
