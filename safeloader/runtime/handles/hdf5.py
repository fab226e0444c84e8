"""HDF5: a file that is open for reading is opened again; its groups and datasets are found in it by their names."""

from __future__ import annotations

from typing import Any

from safeloader.runtime.handles.places import Place, path_for, place_at, place_of, refuse, refuse_writing

Pickler = Any

_OPENING = "open it in the first __getitem__ of each process"


def reduce_object(pickler: Pickler, found: Any) -> Any:
    import h5py

    if isinstance(found, h5py.File):
        return _reduce_file(pickler, found)
    if not found.id.valid:
        refuse("its file is closed", _OPENING)
    if found.name is None:
        refuse("it has no name in its file", _OPENING)
    # Each look at `.file` makes another object for the same file.
    file = pickler.same(_key(found), found.file)
    pickler.holds(found, file)
    return member, (type(found), file, found.name)


def reduce_attributes(pickler: Pickler, found: Any) -> Any:
    """The attributes of a file, group or dataset, which know it by its identifier."""
    import h5py

    if not found._id.valid:
        refuse("its file is closed", _OPENING)
    identifier = h5py.h5i.get_file_id(found._id)
    file = pickler.same(("h5py", identifier.id), h5py.File(identifier))
    pickler.holds(found, file)
    return attributes_of, (file, h5py.h5i.get_name(found._id))


def attributes_of(file: Any, name: str) -> Any:
    return file[name].attrs


def _key(found: Any) -> Any:
    import h5py

    return "h5py", h5py.h5i.get_file_id(found.id).id


def _reduce_file(pickler: Pickler, file: Any) -> Any:
    if not file:
        return closed, (type(file),)
    canonical = pickler.same(_key(file), file)
    if canonical is not file and type(canonical) is type(file):
        return itself, (canonical,)
    if file.mode != "r":
        refuse_writing(f"the file {file.filename!r} (mode {file.mode!r})")
    if file.driver not in ("sec2", "stdio", "core"):
        refuse(f"h5py opened it by the driver {file.driver!r}", _OPENING)
    place = place_of(pickler, file.id.get_vfd_handle(), file.filename) if file.driver == "sec2" else None
    _, slots, size, preemption = file.id.get_access_plist().get_cache()
    how = {"rdcc_nslots": slots, "rdcc_nbytes": size, "rdcc_w0": preemption, "swmr": file.swmr_mode}
    if file.driver != "sec2":
        how["driver"] = file.driver
    place = place or place_at(file.filename)
    return pickler.reopened(file, place.path or "a removed file", open_file, type(file), place, how)


def itself(file: Any) -> Any:
    return file


def open_file(cls: Any, place: Place, how: dict[str, Any]) -> Any:
    return cls(path_for(place), "r", **how)


def member(cls: Any, file: Any, name: str) -> Any:
    found = file[name]
    return found if type(found) is cls else cls(found.id)


def closed(cls: Any) -> Any:
    made = cls("closed", "w", driver="core", backing_store=False)
    made.close()
    return made
