"""What would make samples faster, from what was measured of them. It touches nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safeloader.doctor.finding import Finding
from safeloader.doctor.images import DRAFT, FFCV
from safeloader.doctor.machine import ms, units

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from safeloader.doctor.images import Trial
    from safeloader.doctor.narrow import Narrow
    from safeloader.doctor.subject import Timing

__all__ = ["of_decoders", "of_narrow", "of_stages"]

Size = tuple[int, int]
_WORTH = 0.9
"""Advice is given where it leaves at most this share of the time."""
_MOST_OF_IT = 0.5


def of_stages(
    shares: dict[str, float], timing: Timing, image: Size | None = None, small: Size | None = None
) -> Finding:
    """Where the time of a sample goes.

    Args:
        shares: of the stages of a sample.
        timing: of batches.
        image: the size of a JPEG image that a sample opened.
        small: what it was resized to, if that is much less.
    """
    what = f" (JPEG, {image[0]}×{image[1]})" if image else ""
    words = {
        "read": "reading",
        "decode": f"decoding{what}",
        "transform": "transforms",
        "own code": "the dataset's code",
    }
    parts = [f"{words[stage]} {shares[stage]:.0%}" for stage in words if shares.get(stage, 0.0) >= 0.005]
    samples = timing.samples * timing.sample
    whole = timing.batch + timing.transfer
    text = f"of a sample: {', '.join(parts)}; of a batch: samples {samples / whole:.0%}, collate "
    text += f"{timing.collate / whole:.0%}, transfer {timing.transfer / whole:.0%}"
    if samples < _MOST_OF_IT * whole:
        if timing.samples == 1:
            return Finding("time", "ok", text)
        hint = "give the dataset a __getitems__ that makes a whole batch at once; or make larger samples"
        return Finding("time", "warn" if timing.sample < 1e-4 else "ok", text, hint)
    if shares.get("read", 0.0) >= _MOST_OF_IT:
        hint = "keep the files on a local disk, or many of them in one (tar, LMDB, Arrow, .beton)"
        return Finding("time", "warn", text, hint)
    if image and shares.get("decode", 0.0) + (small is not None) * shares.get("transform", 0.0) >= _MOST_OF_IT:
        hint = "keep smaller or decoded images; .beton files of FFCV do (docs/ffcv.md; --ffcv measures that)"
        return Finding("time", "warn", text, hint)
    if shares.get("transform", 0.0) >= _MOST_OF_IT:
        hint = "do on the device, batch by batch, what can be done there; or on uint8, before it becomes float32"
        return Finding("time", "warn", text, hint)
    return Finding("time", "ok", text)


def of_decoders(found: Sequence[Trial], target: Size | None) -> Iterator[Finding]:
    """What other decoders would make of the images of this dataset; the first is what it has."""
    if not found:
        return
    now, others = found[0], found[1:]
    what = "decoding an image" if target is None else f"decoding an image and resizing it to {target[0]}×{target[1]}"
    for trial in others:
        if trial.seconds > _WORTH * now.seconds:
            continue
        text = f"{what} takes {ms(trial.seconds)} with {trial.decoder}, {ms(now.seconds)} with {now.decoder}"
        if trial.decoder == DRAFT:
            hint = (
                f'call image.draft("RGB", {target}) after Image.open: JPEG is decoded smaller; pixels differ a little'
            )
        elif trial.decoder.startswith(FFCV):
            hint = (
                "look at docs/ffcv.md: a .beton file of this dataset (safeloader beton write); pixels differ a little"
            )
        else:
            hint = f"use {trial.decoder} to decode, if pixels may differ a little"
        yield Finding("decoder", "warn", text + " (measured on images of this dataset)", hint)


def of_narrow(narrow: Narrow | None, timing: Timing) -> Finding | None:
    """Whether images would better stay uint8 until they are on the device; None: no."""
    if narrow is None:
        return None
    now = timing.collate + timing.transfer
    saved = now - narrow.seconds
    if saved < (1 - _WORTH) * (timing.batch + timing.transfer):
        return None
    text = (
        f"float32 images: {units(timing.nbytes)} a batch, collated and sent in {ms(now)}; as uint8 "
        f"{units(narrow.nbytes)} in {ms(narrow.seconds)} (measured)"
    )
    hint = (
        "keep images uint8 until they are on the device, and make float32 of them there: x.to(device).float().div(255)"
    )
    return Finding("dtype", "warn", text, hint)
