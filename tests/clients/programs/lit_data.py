"""litdata: a StreamingDataset of local chunks with its StreamingDataLoader."""

from tests.clients.programs.common import FOLDER, begin, finish, kill_once, seed

RECORDERS = begin()

import numpy as np  # noqa: E402
from litdata import StreamingDataLoader, StreamingDataset  # noqa: E402
from litdata.streaming.writer import BinaryWriter  # noqa: E402


class Chunks(StreamingDataset):
    def __getitem__(self, at):
        sample = super().__getitem__(at)
        if sample["n"] == 21:
            kill_once()
        return sample


def main() -> None:
    local = FOLDER / "chunks"
    local.mkdir()
    writer = BinaryWriter(str(local), chunk_size=8)
    for n in range(48):
        writer[n] = {"n": n, "x": np.full(3, n, np.float32)}
    writer.done()
    writer.merge()
    seed()
    loader = StreamingDataLoader(Chunks(str(local), shuffle=True), batch_size=4, num_workers=3)
    given = [[batch["n"].tolist(), batch["x"].sum().item()] for _ in range(2) for batch in loader]
    batches = iter(loader)
    given.append([next(batches)["n"].tolist() for _ in range(4)])
    state = loader.state_dict()
    del batches
    again = StreamingDataLoader(Chunks(str(local), shuffle=True), batch_size=4, num_workers=3)
    again.load_state_dict(state)  # the next batch is the second worker's
    given.append([batch["n"].tolist() for _ in range(2) for batch in again])
    finish(given, RECORDERS)


if __name__ == "__main__":
    main()
