"""Tests: plays the serial stream program: repeats what it is told, and ends at the word `stop`."""

import os
import sys

sys.stderr.write("open\n")
sys.stderr.flush()
while data := os.read(0, 65536):
    if data == b"stop":
        sys.stderr.write("the VM has stopped\n")
        break
    os.write(1, data)
