"""webdataset: a pipeline over shards with a seeded shuffle, in its WebLoader."""

from tests.clients.programs.common import FOLDER, begin, finish, kill_once, seed

RECORDERS = begin()

import webdataset  # noqa: E402


def _watched(n: int) -> int:
    if n == 21:
        kill_once()
    return n


def main() -> None:
    for shard in range(4):
        with webdataset.TarWriter(f"{FOLDER}/w-{shard}.tar") as writer:
            for n in range(16):
                writer.write({"__key__": f"{shard}-{n}", "n.cls": shard * 16 + n})
    seed()
    data = webdataset.WebDataset(f"{FOLDER}/w-{{0..3}}.tar", shardshuffle=False, detshuffle=True, seed=3)
    data = data.shuffle(8, seed=5).decode().to_tuple("n.cls").map_tuple(_watched).batched(4)
    loader = webdataset.WebLoader(data, batch_size=None, num_workers=2)
    finish([batch[0].tolist() for _ in range(2) for batch in loader], RECORDERS)


if __name__ == "__main__":
    main()
