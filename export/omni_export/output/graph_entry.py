"""A written graph as the manifest names it."""

from __future__ import annotations

from omni_edge.bundle.manifest import GraphEntry
from omni_export.graph.builder import GraphBuilder, GraphFile


def graph_entry(builder: GraphBuilder, saved: GraphFile) -> GraphEntry:
    """The manifest's entry of the graph that `builder` has saved."""
    return GraphEntry(
        file=saved.graph.name,
        data=saved.data.name if saved.data else None,
        precision=str(saved.precision),
        nodes=saved.nodes,
        inputs=_roles(builder.input_names),
        outputs=_roles(builder.output_names),
    )


def _roles(names: list[str]) -> dict[str, str]:
    """Role -> tensor name. A name is its own role; past.3.key and its like share the name past.{layer}.key."""
    roles = {}
    for name in names:
        parts = name.split(".")
        if len(parts) == 3 and parts[1].isdigit():
            roles[f"{parts[0]}_{parts[2]}"] = f"{parts[0]}.{{layer}}.{parts[2]}"
        else:
            roles[name] = name
    return roles
