# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keeps seeds, which may contain secrets, out of the results of a module."""

from __future__ import annotations

from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule


class SeedModule(AnsibleModule):
    """An AnsibleModule whose results never repeat the argument that contains the seed.

    Ansible would remove no_log values, down to single letters, from every other text of the result
    as well. Instead, the argument is left out of the result and of the syslog.
    """

    def __init__(self, seed_in: str, **specification: Any) -> None:
        self._seed_in = seed_in
        super().__init__(supports_check_mode=True, no_log=True, **specification)

    def exit_json(self, **result: Any) -> NoReturn:
        """Report success, without the seed."""
        super().exit_json(**result, invocation=self._invocation())
        raise AssertionError("exit_json returned")

    def fail_json(self, msg: str, **result: Any) -> NoReturn:
        """Report a failure, without the seed."""
        super().fail_json(msg, **result, invocation=self._invocation())
        raise AssertionError("fail_json returned")

    def _invocation(self) -> dict[str, Any]:
        # An unknown argument may be a part of a seed in the wrong place.
        shown = self.argument_spec.keys() - {self._seed_in}
        return {"module_args": {k: v for k, v in self.params.items() if k in shown}}
