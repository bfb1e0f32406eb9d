"""Lab: mounts a file system that never responds, like that of an NFS server that is gone.

Usage: python3 dead_storage.py DIRECTORY. Prints a line when it is mounted, and ends with its
standard input; whoever waits for the file system then gets an error.
"""

import ctypes
import os
import sys
from pathlib import Path


def main() -> None:
    """Mount it, never read a request from it, and wait."""
    directory = sys.argv[1]
    if not Path("/dev/fuse").exists():
        os.mknod("/dev/fuse", 0o20666, os.makedev(10, 229))
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"dead", os.fsencode(directory), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"cannot mount {directory}")
    print("mounted", flush=True)
    sys.stdin.read()
    libc.umount2(os.fsencode(directory), 2)  # MNT_DETACH


if __name__ == "__main__":
    main()
