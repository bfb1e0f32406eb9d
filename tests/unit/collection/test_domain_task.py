"""Tests of what the task on one domain makes of its arguments."""

from __future__ import annotations

from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.task import label_texts


def test_labels_are_text_as_yaml_would_write_them() -> None:
    labels = {"v": 1, "prod": True, "old": False, 7: "x", "half": 0.5}
    wanted = {"v": "1", "prod": "true", "old": "false", "7": "x", "half": "0.5"}
    assert label_texts(labels) == label_texts(wanted) == wanted
