# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What modules that change a domain have in common: its lock, and the job they are part of."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of a task that holds the lock of a domain."""

    DOCUMENTATION = """
options:
  job:
    description: Id of the job that this task is part of.
    type: str
  lock_timeout:
    description:
      - Seconds to wait for another task on the same domain. Then this one fails with the code
        V(OPERATION_IN_PROGRESS) and says who holds it.
    type: int
    default: 120
attributes:
  check_mode:
    description: Nothing is changed and no lock is taken.
    support: full
"""
    GENERATION = """
options:
  generation:
    description:
      - Generation of the worker. A task of a lower generation than was seen before is refused.
    type: int
"""
