"""Things of other packages that a dataset may hold open: a row each, as in `open_things`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tests.runtime.open_things import Row


def _hdf5(folder: Path) -> Any:
    import h5py

    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/values"] = np.arange(10)
    return h5py.File(path, "r", rdcc_nslots=7)


def _of_one_file(folder: Path) -> Any:
    file = _hdf5(folder)
    return file["group/values"], file["group"], file


def _use_of_one_file(found: Any) -> Any:
    values, group, file = found
    same = values.file.id == group.file.id == file.id
    return values[3:5].tolist(), list(group), same, file.id.get_access_plist().get_cache()[1]


def _attributes(folder: Path) -> Any:
    import h5py

    _hdf5(folder).close()
    with h5py.File(folder / "a.h5", "r+") as file:
        file["group/values"].attrs["unit"] = 5
    return h5py.File(folder / "a.h5", "r")["group/values"].attrs


def _lmdb(folder: Path) -> Any:
    import lmdb

    path = os.fspath(folder / "db")
    with lmdb.open(path, map_size=1 << 20, max_dbs=2) as environment:
        part = environment.open_db(b"part")
        with environment.begin(write=True) as transaction:
            transaction.put(b"key", b"value")
            transaction.put(b"key", b"in part", db=part)
    return lmdb.open(path, readonly=True, lock=False, max_dbs=2)


def _use_lmdb(environment: Any) -> Any:
    part = environment.open_db(b"part", create=False)
    with environment.begin() as transaction:
        return transaction.get(b"key"), transaction.get(b"key", db=part)


def _parquet_file(folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = os.fspath(folder / "a.parquet")
    pq.write_table(pa.table({"x": [1, 2, 3], "name": ["a", "b", "a"]}), path)
    return path


def _parquet(folder: Path, **options: Any) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetFile(_parquet_file(folder), **options)


def _mapped_parquet(folder: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(pa.memory_map(_parquet_file(folder)))


def _arrow(opener: str) -> Any:
    def make(folder: Path) -> Any:
        import pyarrow as pa

        path = folder / "a.bin"
        path.write_bytes(b"0123456789")
        made = getattr(pa, opener)(os.fspath(path))
        made.seek(4)
        return made

    return make


def video(folder: Path, count: int = 6, step: int = 40) -> str:
    import cv2

    path = os.fspath(folder / "a.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 32))
    for n in range(count):
        writer.write(np.full((32, 32, 3), n * step, np.uint8))
    writer.release()
    return path


def _capture(folder: Path) -> Any:
    import cv2

    made = cv2.VideoCapture(video(folder))
    made.read()
    made.read()
    return made


def _container(folder: Path) -> Any:
    import av

    container = av.open(video(folder))
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return container, stream


def _use_container(found: Any) -> Any:
    container, stream = found
    container.seek(0)
    frames = [round(float(frame.to_ndarray(format="gray").mean()), -1) for frame in container.decode(stream)]
    return frames[:3], len(frames), stream.container is container or stream.container.name == container.name


def _decord(folder: Path) -> Any:
    import decord

    return decord.VideoReader(video(folder))


def _use_decord(reader: Any) -> Any:
    return len(reader), round(float(reader[2].asnumpy().mean()), -1)


def _zarr(store: str) -> Any:
    def make(folder: Path) -> Any:
        import zarr

        if store == "folder":
            zarr.save_array(os.fspath(folder / "a.zarr"), np.arange(10))
            return zarr.open_array(os.fspath(folder / "a.zarr"), mode="r")
        if store == "memory":
            return zarr.create_array(zarr.storage.MemoryStore(), data=np.arange(10))
        path = os.fspath(folder / "a.zip")
        with zarr.storage.ZipStore(path, mode="w") as writing:
            zarr.create_array(writing, data=np.arange(10))
        return zarr.open_array(zarr.storage.ZipStore(path, mode="r"), mode="r")

    return make


def _image(folder: Path, kind: str = "png", **options: Any) -> Any:
    from PIL import Image

    path = folder / f"a.{kind}"
    Image.fromarray(np.full((40, 30, 3), 200, np.uint8)).save(path, **options)
    return Image.open(path)


def _use_image(image: Any) -> Any:
    was_lazy = image._im is None
    return was_lazy, image.getpixel((1, 1)), image.size, Path(image.filename).suffix


def _draft(folder: Path) -> Any:
    image = _image(folder, "jpg", quality=95)
    image.draft("L", (15, 20))
    return image


def _frames(folder: Path) -> Any:
    from PIL import Image

    frames = [Image.new("L", (4, 4), n * 50) for n in range(3)]
    frames[0].save(folder / "a.tif", save_all=True, append_images=frames[1:])
    image = Image.open(folder / "a.tif")
    image.seek(2)
    return image


def _use_frame(image: Any) -> Any:
    with image:
        return image.tell(), image.getpixel((0, 0))


ROWS: dict[str, tuple[str, Row]] = {
    "h5py file": ("h5py", Row(_hdf5, lambda f: f["group/values"][3:5].tolist(), [3, 4], "a.h5")),
    "h5py parts of one file": ("h5py", Row(_of_one_file, _use_of_one_file, ([3, 4], ["values"], True, 7), "a.h5")),
    "h5py attributes": ("h5py", Row(_attributes, lambda a: int(a["unit"]), 5, "a.h5")),
    "lmdb": ("lmdb", Row(_lmdb, _use_lmdb, (b"value", b"in part"), "data.mdb")),
    "parquet": ("pyarrow", Row(_parquet, lambda f: f.read().column("x").to_pylist(), [1, 2, 3], "a.parquet")),
    "parquet, mapped": (
        "pyarrow",
        Row(_mapped_parquet, lambda f: f.read().column("x").to_pylist(), [1, 2, 3], "a Parquet file"),
    ),
    "arrow map": ("pyarrow", Row(_arrow("memory_map"), lambda f: f.read(2), b"45", "a.bin, at byte 4")),
    "arrow file": ("pyarrow", Row(_arrow("OSFile"), lambda f: f.read(2), b"45", "a.bin, at byte 4")),
    "OpenCV": ("cv2", Row(_capture, lambda f: round(float(f.read()[1].mean()), -1), 80.0, "a.avi, at frame 2")),
    "PyAV": ("av", Row(_container, _use_container, ([0.0, 40.0, 80.0], 6, True), "a.avi, from its beginning")),
    "decord": ("decord", Row(_decord, _use_decord, (6, 80.0), "a.avi")),
    "zarr folder": ("zarr", Row(_zarr("folder"), lambda f: f[3:5].tolist(), [3, 4])),
    "zarr memory": ("zarr", Row(_zarr("memory"), lambda f: f[3:5].tolist(), [3, 4])),
    "zarr zip": ("zarr", Row(_zarr("zip"), lambda f: f[3:5].tolist(), [3, 4])),
    "Pillow": ("PIL", Row(_image, _use_image, (True, (200, 200, 200), (30, 40), ".png"), "a.png")),
    "Pillow draft": ("PIL", Row(_draft, _use_image, (True, 200, (15, 20), ".jpg"), "a.jpg")),
    "Pillow frame": ("PIL", Row(_frames, _use_frame, (2, 100), "a.tif")),
}
