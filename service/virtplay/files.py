"""Where the files are that the service brings beside its Python code.

A wheel has them in the package, below `share`; a checkout, and a release of the role
virtplay_service, which is installed from one, in its root. Both are laid out alike.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IS_WHEEL = (PACKAGE / "share").is_dir()
PROJECT = PACKAGE / "share" if IS_WHEEL else PACKAGE.parents[1]
"""The directory with ansible.cfg, playbooks/, roles/, collections/, inventory/ and the rest."""
NODE_MODULES = PROJECT / "service/web/node_modules"
"""The console page's npm packages: scripts/setup installs them, where there is npm."""


def exists(path: Path) -> bool:
    """Whether there is such a file; PermissionError if a directory hides it.

    Path.exists returns False then, from Python 3.14 on.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
