"""mosaicml-streaming: a shuffled StreamingDataset of local shards, with torch's DataLoader and with its own."""

from tests.clients.programs.common import FOLDER, begin, finish, kill_once, seed

RECORDERS = begin()

import numpy as np  # noqa: E402
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset  # noqa: E402


class Shards(StreamingDataset):
    def __getitem__(self, at):
        sample = super().__getitem__(at)
        if sample["n"] == 21:
            kill_once()
        return sample["n"], sample["x"]


def main() -> None:
    local = str(FOLDER / "shards")
    with MDSWriter(out=local, columns={"n": "int", "x": "ndarray"}, size_limit=1 << 10) as out:
        for n in range(48):
            out.write({"n": n, "x": np.full(3, n, np.float32)})
    seed()
    dataset = Shards(local=local, shuffle=True, batch_size=4, shuffle_seed=1)
    loader = StreamingDataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=False)
    given = [[numbers.tolist(), x.sum().item()] for _ in range(1) for numbers, x in loader]
    finish(given, RECORDERS)


if __name__ == "__main__":
    main()
