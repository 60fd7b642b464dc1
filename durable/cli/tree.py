"""The tree of an instance and its sub-orchestrations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from durable.cli.output import Output, plain
from durable.cli.shapes import status_shape
from durable.core.errors import InstanceNotFoundError
from durable.core.events import SubOrchestrationInstanceCreated
from durable.handle import InstanceStatus
from durable.hub import TaskHub

if TYPE_CHECKING:
    from rich.tree import Tree


@dataclass
class Node:
    """An instance and those that its current execution called. ``status`` is None for one that is not there."""

    instance_id: str
    name: str
    status: InstanceStatus | None
    children: list[Node] = field(default_factory=list)


async def read_tree(hub: TaskHub, instance_id: str) -> Node:
    """The tree below an instance. Raises InstanceNotFoundError when it does not exist itself."""
    root = await _read_node(hub, instance_id)
    pending = [root]
    while pending:
        node = pending.pop()
        for event in await hub.get(node.instance_id).history():
            if isinstance(event, SubOrchestrationInstanceCreated) and not event.detached:
                try:
                    child = await _read_node(hub, event.instance_id)
                except InstanceNotFoundError:
                    node.children.append(Node(event.instance_id, event.name, None))  # purged, or not made yet
                else:
                    node.children.append(child)
                    pending.append(child)
    return root


async def _read_node(hub: TaskHub, instance_id: str) -> Node:
    status = await hub.get(instance_id).status()
    return Node(instance_id, status.name, status)


def draw(output: Output, root: Node) -> None:
    """Print a tree: one JSON document with ``children``, or lines that are indented."""
    if output.as_json:
        output.document(_shape(root))
    elif output.for_people:
        output.console().print(_rich_tree(root))
    else:
        for depth, node in _flat(root):
            output.say(f"{'  ' * depth}{_label(node)}")


def _shape(node: Node) -> dict[str, Any]:
    known = {"instanceId": node.instance_id, "name": node.name, "runtimeStatus": None}
    shape = known if node.status is None else status_shape(node.status)
    return shape | {"children": [_shape(child) for child in node.children]}


def _flat(root: Node) -> list[tuple[int, Node]]:
    flat, pending = [], [(0, root)]
    while pending:
        depth, node = pending.pop()
        flat.append((depth, node))
        pending += [(depth + 1, child) for child in reversed(node.children)]
    return flat


def _label(node: Node) -> str:
    state = "not there" if node.status is None else node.status.runtime_status.value
    return plain(f"{node.name} {node.instance_id} {state}")


def _rich_tree(root: Node) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    drawn = Tree(Text(_label(root)))
    pending = [(root, drawn)]
    while pending:
        node, branch = pending.pop()
        pending += [(child, branch.add(Text(_label(child)))) for child in node.children]
    return drawn
