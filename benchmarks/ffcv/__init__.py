"""How fast FFCV is, bare and wrapped, beside DataLoaders with Pillow; what a change of size and a start cost.

::

    __main__ ─▶ speed: epochs of all contenders in turn, in one process ─▶ images a second, ratio to bare FFCV
            ├─▶ starts: one process a measurement ─▶ first batch, change of size, rebuild; cold, memoised, from disk
            └─▶ benchmarks.hangs.ffcv: its ways to hang or lie, bare and wrapped

The same photographs (crops of pictures inside installed packages) and the same sizes for all.
"""
