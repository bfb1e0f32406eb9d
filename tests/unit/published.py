"""The metrics that the service publishes, and what an expression over them gives (by its AST)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import promql_parser as promql

GOLDEN = Path(__file__).parent / "service/golden/metrics.txt"
"""Compared with what the service really sends by test_metrics.py."""
Labels = frozenset[str]
TARGET = frozenset({"job", "instance"})
"""What Prometheus puts on every series that it scrapes."""


def published() -> dict[str, Labels]:
    """Every series that the service publishes, by the name in its text → its labels."""
    found = {}
    for line in GOLDEN.read_text().splitlines():
        match = re.fullmatch(r"(\w+) (gauge|counter|histogram) {([\w,]*)}", line)
        assert match, line
        labels = TARGET | set(filter(None, match[3].split(",")))
        if match[2] == "histogram":
            found[f"{match[1]}_bucket"] = labels
            found[f"{match[1]}_sum"] = found[f"{match[1]}_count"] = labels - {"le"}
        else:
            found[match[1]] = labels
    # Prometheus's own.
    found["up"] = TARGET
    found["ALERTS"] = TARGET | {"alertname", "alertstate", "severity", "host", "uuid", "name"}
    return found


def labels_of(expression: str, metrics: dict[str, Labels]) -> Labels:
    """The labels of what an expression gives; AssertionError when it asks for what is not there."""
    return _read(promql.parse(expression), metrics)


def _demand(wanted: Iterable[str] | None, there: Labels, where: object) -> None:
    assert set(wanted or ()) <= there, f"{set(wanted or ()) - there} in {where}: not a label there"


def _read(node: promql.Expr, metrics: dict[str, Labels]) -> Labels:
    match node:
        case promql.VectorSelector():
            assert node.name in metrics, f"no such metric: {node.name}"
            labels = metrics[node.name]
            _demand((matcher.name for matcher in node.matchers.matchers), labels, node)
            return labels
        case promql.MatrixSelector():
            return _read(node.vector_selector, metrics)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _read(node.expr, metrics)
        case promql.AggregateExpr():
            return _aggregate(node, metrics)
        case promql.Call():
            given: Labels = frozenset().union(*(_read(arg, metrics) for arg in node.args))
            if node.func.name == "label_join":
                return given | {node.args[1].val}
            return given - {"le"} if node.func.name == "histogram_quantile" else given
        case promql.BinaryExpr():
            return _combine(node, metrics)
        case promql.NumberLiteral() | promql.StringLiteral():
            return frozenset()
        case _:
            raise AssertionError(f"not read here: {node!r}")


def _is_scalar(node: promql.Expr) -> bool:
    if isinstance(node, promql.ParenExpr):
        return _is_scalar(node.expr)
    if isinstance(node, promql.BinaryExpr):
        return _is_scalar(node.lhs) and _is_scalar(node.rhs)
    return isinstance(node, promql.NumberLiteral) or (
        isinstance(node, promql.Call) and node.func.return_type == promql.ValueType.Scalar
    )


def _aggregate(node: promql.AggregateExpr, metrics: dict[str, Labels]) -> Labels:
    inner = _read(node.expr, metrics)
    if str(node.op) in ("topk", "bottomk"):
        return inner
    if node.modifier is None:
        return frozenset()
    _demand(node.modifier.labels, inner, node)
    by = node.modifier.type == promql.AggModifierType.By
    return frozenset(node.modifier.labels) if by else inner - set(node.modifier.labels)


def _combine(node: promql.BinaryExpr, metrics: dict[str, Labels]) -> Labels:
    left, right = _read(node.lhs, metrics), _read(node.rhs, metrics)
    if _is_scalar(node.lhs):
        return right
    if _is_scalar(node.rhs) or str(node.op) == "or":
        return left
    modifier = node.modifier
    if modifier is None or modifier.matching is None:
        assert left == right, f"nothing matches in {node}: {set(left)} and {set(right)}"
        return left
    matching = modifier.matching.labels
    _demand(matching, left, node)
    _demand(matching, right, node)
    if str(node.op) in ("and", "unless"):
        return left
    if modifier.group_labels is None:
        # Matched one to one: what is not matched on goes.
        return frozenset(matching)
    _demand(modifier.group_labels, right, node)
    return left | set(modifier.group_labels)
