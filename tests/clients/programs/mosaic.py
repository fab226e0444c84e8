"""mosaicml-streaming: a shuffled StreamingDataset of local shards, with its own loader."""

from tests.clients.programs.common import FOLDER, begin, finish, kill_once, seed

RECORDERS = begin()

import numpy as np  # noqa: E402
from streaming import MDSWriter, StreamingDataLoader, StreamingDataset  # noqa: E402


class Shards(StreamingDataset):
    def __getitem__(self, at):
        sample = super().__getitem__(at)
        if sample["n"] in (21, 36, 17):  # in mid-epoch, and in the first batch of each worker
            kill_once(f"{sample['n']}")
        return sample["n"], sample["x"]


def main() -> None:
    local = str(FOLDER / "shards")
    with MDSWriter(out=local, columns={"n": "int", "x": "ndarray"}, size_limit=1 << 10) as out:
        for n in range(48):
            out.write({"n": n, "x": np.full(3, n, np.float32)})
    seed()
    dataset = Shards(local=local, shuffle=True, batch_size=4, shuffle_seed=1)
    given = []
    for persistent in (False, True):
        loader = StreamingDataLoader(dataset, batch_size=4, num_workers=2, persistent_workers=persistent)
        given += [[numbers.tolist(), x.sum().item()] for _ in range(2) for numbers, x in loader]
    finish(given, RECORDERS)


if __name__ == "__main__":
    main()
