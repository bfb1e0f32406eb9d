# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Document the libvirt connection of a module and its requirements on the host."""

from __future__ import annotations


class ModuleDocFragment:
    """The options and requirements of a module that connects to libvirt."""

    DOCUMENTATION = """
options:
  uri:
    description: libvirt connection URI.
    type: str
    default: qemu:///system
requirements:
  - python >= 3.9
  - python3-libvirt
  - python3-lxml
"""
