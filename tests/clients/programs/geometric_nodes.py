"""PyTorch Geometric: NodeLoader, which NeighborLoader derives from, with a sampler of neighbours in Python."""

from tests.clients.programs.common import begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import torch  # noqa: E402
from torch_geometric.data import Data  # noqa: E402
from torch_geometric.loader import NodeLoader  # noqa: E402
from torch_geometric.nn import SAGEConv  # noqa: E402
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput  # noqa: E402

NODES = 64


class Neighbours(BaseSampler):
    """Two neighbours of each node, by chance. (PyG's own sampler is compiled, and has no wheel for every torch.)"""

    def __init__(self, edges: torch.Tensor) -> None:
        self.edges = edges

    def sample_from_nodes(self, index: NodeSamplerInput, **_) -> SamplerOutput:
        if 21 in index.node.tolist():
            kill_once()
        nodes, rows, columns, kept = index.node.tolist(), [], [], []
        for at, node in enumerate(index.node.tolist()):
            into = (self.edges[1] == node).nonzero().flatten()
            for edge in into[torch.randperm(len(into))[:2]].tolist():
                nodes.append(int(self.edges[0, edge]))
                rows.append(len(nodes) - 1)
                columns.append(at)
                kept.append(edge)
        found = (torch.tensor(part, dtype=torch.long) for part in (nodes, rows, columns, kept))
        return SamplerOutput(*found, metadata=(index.input_id, index.time))

    def sample_from_edges(self, index, **_):
        raise NotImplementedError


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = SAGEConv(3, 1)

    def forward(self, data: Data) -> torch.Tensor:
        return self.layer(data.x, data.edge_index)[: data.batch_size].flatten()


def main() -> None:
    seed()
    edges = torch.randint(0, NODES, (2, 300))
    x = torch.rand(NODES, 3)
    data = Data(x=x, edge_index=edges, y=x.sum(1))
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = NodeLoader(data, Neighbours(edges), input_nodes=None, batch_size=8, shuffle=True, num_workers=2)
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(batch), batch.y[: batch.batch_size]).backward()
            optimizer.step()
    finish(digest_of(model), RECORDERS)


if __name__ == "__main__":
    main()
