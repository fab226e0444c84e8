"""PyTorch Geometric: its DataLoader over graphs."""

from tests.clients.programs.common import begin, digest_of, finish, kill_once, seed

RECORDERS = begin()

import torch  # noqa: E402
from torch_geometric.data import Data, Dataset  # noqa: E402
from torch_geometric.loader import DataLoader  # noqa: E402
from torch_geometric.nn import GCNConv, global_mean_pool  # noqa: E402


class Graphs(Dataset):
    def len(self) -> int:
        return 32

    def get(self, index: int) -> Data:
        if index == 13:
            kill_once()
        nodes = 3 + index % 4
        edges = torch.stack([torch.arange(nodes), torch.arange(nodes).roll(1)])
        x = torch.rand(nodes, 3) + index / 32
        return Data(x=x, edge_index=edges, y=x.mean().reshape(1))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = GCNConv(3, 8), torch.nn.Linear(8, 1)

    def forward(self, data: Data) -> torch.Tensor:
        return self.last(global_mean_pool(self.first(data.x, data.edge_index).tanh(), data.batch)).flatten()


def main() -> None:
    seed()
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loader = DataLoader(Graphs(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=True)
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(batch), batch.y).backward()
            optimizer.step()
    finish(digest_of(model), RECORDERS)


if __name__ == "__main__":
    main()
