"""Errors. A class has a code for all that has no code of its own."""

from __future__ import annotations

__all__ = ["ERRORS"]

ERRORS = (
    ("SL200", "SafeLoaderError", "any other error", "The text says what.", "See the line `try:` of the error."),
    (
        "SL201", "SafeLoaderError", "a batch arrived that the main process cannot rebuild: ...",
        "A class in the batch can be imported in the worker process only.",
        "Return tensors, arrays or plain values, or make the class importable in the main process.",
    ),
    (
        "SL202", "SafeLoaderError or StartError", "too many faults, and policy allows no fewer processes",
        "There were more faults than `max_restarts` within `restart_period`, and `fallback` is `off` or `process`.",
        "Read the last fault in the error; `Policy(fallback=\"inline\")` goes on with fewer processes or none.",
    ),
    (
        "SL203", "StartError", "setting up a worker kills or hangs every process that tries",
        "`worker_init_fn`, or what the dataset does when it is unpickled or iterated, ends the process.",
        "Call it alone in a fresh Python; the error has the last stack.",
    ),
    (
        "SL204", "StartError", "a process was lost while it set up a worker, and no other can be started",
        "What ended a process is not done in the main process, and no further process starts.",
        "Look at why processes do not start: `loader.report()`.",
    ),
    (
        "SL205", "StartError", "a worker process cannot rebuild the dataset or its functions: ...",
        "A module that the dataset needs cannot be imported in a fresh interpreter with the same `sys.path`.",
        "Put the module where `import` finds it; the error shows the process's own traceback.",
    ),
    (
        "SL206", "BadSampleError", "sample ... kills / hangs every process that loads it",
        "A sample was tried as often as `bad_sample_attempts` allows, and each time its process died or hung.",
        "Load `dataset[index]` alone in a fresh Python. `Policy(on_bad_sample=\"skip\")` leaves it out.",
    ),
    (
        "SL207", "BadSampleError", "sample ... was in work when a process was lost, and no process can be started to try again",
        "It may or may not be the cause; it is not loaded in the main process, which could end by it.",
        "See why no process starts (`loader.report()`), then try again.",
    ),
    (
        "SL208", "DivergenceError", "worker ... reads ... again, and it is not the same: ...",
        "As SL022, and policy says that the run must not go on with other data.",
        "Seed the dataset; or `Policy(on_divergence=\"warn\")`.",
    ),
    (
        "SL209", "BatchTimeoutError", "FFCV made no batch for ...",
        "FFCV hung in the main process, where it cannot be replaced.",
        "`Policy(ffcv_mode=\"process\")` runs it in a supervised process.",
    ),
    (
        "SL210", "SettingsError", "... is not accepted: it must be ...",
        "A setting or an argument has a value that it cannot have.",
        "The error says what is accepted; see [the settings](settings.md).",
    ),
    (
        "SL211", "SettingsError", "SAFELOADER_... is not a setting of safeloader",
        "An environment variable with this prefix is unknown, so a wish would be ignored silently.",
        "Correct or unset it; the error lists all that are known.",
    ),
    (
        "SL212", "StartError", "a worker process cannot be started",
        "The text says why.",
        "See the line `try:` of the error.",
    ),
    (
        "SL213", "StartError", "shared memory for batches cannot be allocated: ...",
        "The system refused memory or a descriptor for the batches.",
        "Raise the limit that the error names (`ulimit -n`, memory of the container).",
    ),
    (
        "SL214", "StartError", "... no worker process can be started from it: it would run the whole program again",
        "`sys.executable` is a program of its own (a frozen or embedding one), not a Python interpreter.",
        "Name an interpreter with `multiprocessing.set_executable(...)`, or load in the main process.",
    ),
    (
        "SL215", "NotCarriableError", "... cannot be sent to another process: ...",
        "The dataset, the collate function or `worker_init_fn` holds something that cannot be rebuilt elsewhere.",
        "The error names the attribute; open such things in `__getitem__` or `worker_init_fn`.",
    ),
    (
        "SL216", "NotCarriableError", "the batch of samples ... was loaded but cannot be sent to the main process: ...",
        "A batch holds something that cannot be rebuilt in the main process.",
        "Return tensors, arrays and plain values.",
    ),
    (
        "SL218", "LoaderClosedError", "... was closed / belongs to another process",
        "A loader, iterator or pool was used after `close()`, or in a fork of the program.",
        "Make a new one; close it when nobody uses it any more.",
    ),
    (
        "SL219", "ConcurrentUseError", "two threads asked the same iterator for a batch at the same time",
        "An iterator serves one thread at a time.",
        "Give each thread a loader of its own, or guard `next()` with a lock.",
    ),
    (
        "SL220", "StateError", "a state cannot be taken, or is none that this loader can go on from",
        "The text says what is missing or differs.",
        "See [resuming](state.md).",
    ),
    (
        "SL221", "StateError", "this state is damaged: it is not as it was saved",
        "The seal does not fit: the state was edited, or damaged on the disk.",
        "Go on from another checkpoint.",
    ),
    (
        "SL222", "StateError", "this state is of another loader: ...",
        "Seed, batch size, number of workers or dataset differ from those of the loader that the state was taken from.",
        "Give the loader the same arguments, or begin without the state.",
    ),
    ("SL223", "AuditError", "a loader cannot be audited", "The text says why.", "See [the audit](audit.md)."),
    (
        "SL224", "StartError", "the dataset, serialised ... bytes, cannot be put into shared memory",
        "The dataset is larger than the memory or file size that the system allows.",
        "Keep large data in files that each worker opens; or raise the limit.",
    ),
    (
        "SL230", "SafeLoaderError", "port=... is no port",
        "`safeloader.metrics.serve(port=...)` was given something else than a port.",
        "Give a number from 0 (any free port) to 65535.",
    ),
    (
        "SL231", "SafeLoaderError", "... needs a package which is not installed",
        "An optional part needs another package.",
        "Install what the error names.",
    ),
    (
        "SL232", "SafeLoaderError", "metrics cannot be served at ...",
        "The port is taken, or the address is not this machine's.",
        "Give each rank its own port, or `port=0`.",
    ),
    (
        "SL233", "SafeLoaderError", "this program is on no board",
        "There is no process group of several ranks, or no loader has begun an epoch.",
        "See [the board](board.md).",
    ),
    ("SL240", "ChaosError", "made on purpose: ...", "`SAFELOADER_CHAOS` asked for it.", "See [chaos](chaos.md)."),
    (
        "SL250", "RanksDisagreeError", "ranks disagree about ... / rank ... did not come",
        "FFCV loaders of several ranks were given different data, seeds or sizes, or a rank did not come in time.",
        "Give all ranks the same file, seed, sizes and batch size.",
    ),
    (
        "SL260", "CheckpointError", "a checkpoint cannot be written, is damaged, belongs to something else, or does not fit",
        "The text and the path say which.",
        "`safeloader checkpoint check FILE` looks into it; `latest_good()` takes the one before.",
    ),
    (
        "SL261", "NonFiniteError", "a NaN or an infinity in ...",
        "The first place where it was found, and the samples of the batch where they are known.",
        "See [helpers for a training loop](training.md).",
    ),
    (
        "SL270", "BetonError", "... is damaged / was changed after it was opened",
        "An FFCV file cannot be read as it should.",
        "Write or copy it again; `safeloader beton FILE` examines it.",
    ),
    (
        "SL271", "PipelineError", "an FFCV pipeline cannot work: ...",
        "An order of operations, a size or a field does not fit.",
        "The error names the operation and the field.",
    ),
    (
        "SL272", "FFCVMissingError", "safeloader.ffcv needs FFCV, which cannot be imported",
        "FFCV, or a library that it needs, is not installed.",
        "The error says how to install it.",
    ),
)  # fmt: skip
