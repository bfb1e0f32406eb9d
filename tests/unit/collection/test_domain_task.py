"""Tests of what the task on one domain makes of its arguments."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.task import label_texts
from ansible_collections.virtplay.libvirt.plugins.modules import domain as module


def test_labels_are_text_as_yaml_would_write_them() -> None:
    labels = {"v": 1, "prod": True, "old": False, 7: "x", "half": 0.5}
    wanted = {"v": "1", "prod": "true", "old": "false", "7": "x", "half": "0.5"}
    assert label_texts(labels) == label_texts(wanted) == wanted


def test_a_seed_in_the_wrong_place_is_in_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"name": "web", "user_data": "#cloud-config of mine", "seed": {"hostname": "mine"}}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        module.main()
    said = capsys.readouterr().out
    result = json.loads(said)
    assert result["msg"].startswith("Unsupported parameters for ")
    assert result["invocation"]["module_args"]["name"] == "web"
    assert "mine" not in said
