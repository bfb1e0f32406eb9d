# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Document the lock and job options of modules that change a domain."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of a task that holds the lock of a domain."""

    DOCUMENTATION = """
options:
  job:
    description: Id of the job that this task belongs to.
    type: str
  lock_timeout:
    description:
      - Time in seconds to wait for another task on the same domain. After that this task fails with
        the code V(OPERATION_IN_PROGRESS), and the message names the other task.
    type: int
    default: 120
attributes:
  check_mode:
    description: Changes nothing and takes no lock in check mode.
    support: full
"""
    GENERATION = """
options:
  generation:
    description:
      - Generation of the worker that runs the job. A task is refused if the host has already seen a
        higher generation for this domain.
    type: int
"""
