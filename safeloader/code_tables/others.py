"""Warnings, and log lines that are not about one happening of a loader."""

from __future__ import annotations

__all__ = ["FFCV", "LOADER", "RANKS", "TRAINING"]

LOADER = (
    (
        "SL101", "warning; ForkRefusedError under strict", "... asks for fork: ...; safeloader starts its processes with spawn instead",
        "A forked process inherits held locks, threads and the accelerator's context, and hangs sooner or later.",
        "Ask for `\"spawn\"` or `\"forkserver\"`: `DataLoader(..., multiprocessing_context=\"spawn\")`.",
    ),
    (
        "SL102", "warning; StartError under strict", "no fork server (...); processes are spawned instead / the fork server cannot import ...",
        "What was asked for at the start cannot be had, for the reason in brackets. Everything works; starts are slower.",
        "Mend the reason, or take `start_method=\"spawn\"`.",
    ),
    (
        "SL103", "warning; SettingsError under strict", "preload names what is no module that can be found / preload has no effect",
        "`Policy(preload=...)` or `SAFELOADER_PRELOAD` does nothing for these modules.",
        "Correct the names; give `start_method=\"forkserver\"`, since spawned processes preload nothing.",
    ),
    (
        "SL104", "warning", "this state was saved by an older version of safeloader, without a seal",
        "The state is read, but a change or damage of it could not be noticed.",
        "Nothing: states that are saved from now on have a seal.",
    ),
    (
        "SL105", "warning", "a second epoch begins, and nobody has called set_epoch: ...",
        "A DistributedSampler gives the same order in each epoch unless `set_epoch` is called.",
        "Call `loader.set_epoch(epoch)` before each epoch.",
    ),
    (
        "SL106", "warning", "Accelerate rebuilds this loader as torch's own DataLoader, which does not survive its workers",
        "`accelerator.prepare` makes a new loader of torch's class.",
        "Call `safeloader.patch()` before `accelerator.prepare(...)`.",
    ),
    (
        "SL119", "log", "patch() came too late for ...: defined before, they keep torch's loading",
        "Subclasses of torch's DataLoader that were defined before `safeloader.patch()` do not use safeloader.",
        "Call `safeloader.patch()` before importing what defines them, or start with `safeloader run`.",
    ),
    (
        "SL110", "log", "faults will be made on purpose in worker processes: ...",
        "`SAFELOADER_CHAOS` is set, or `safeloader.testing.chaos` is in use.",
        "Unset it in production.",
    ),
    (
        "SL111", "log", "of the faults that were to be made on purpose, these never happened: ...",
        "A fault of the plan met no batch, sample, worker, epoch or loader as it says, so the run proves nothing about it.",
        "Correct the plan. Without skipped batches, worker w of n loads the batches w, w + n, w + 2 n, ...",
    ),
    (
        "SL112", "log", "cannot write events to ...; training goes on without them",
        "The file of `SAFELOADER_EVENTS` cannot be written.",
        "Give a path on a disk with room that this program may write to.",
    ),
    (
        "SL113", "log", "SAFELOADER_TRACE writes to the file of events: set SAFELOADER_EVENTS, too",
        "A trace was asked for without a file to write it to.",
        "Set `SAFELOADER_EVENTS` to a path.",
    ),
    (
        "SL114", "log", "safeloader could not record what happened",
        "An error within safeloader's own reporting. Training is not affected; the traceback follows.",
        "Please report it, with the traceback.",
    ),
    (
        "SL156", "log", "each process reads the dataset for itself: reading it ...",
        "With `start_method=\"forkserver\"` a large dataset is read once for all processes. This one does something while it is "
        "read that would not be the same in each process, or that a fork must not share: the line says what. Starts take "
        "longer, and each process has its own copy.",
        "Leave such things to the first `__getitem__`, or to `worker_init_fn`; or nothing.",
    ),
    (
        "SL157", "log", "batches are copied into pinned memory, as they cannot be pinned in place: ...",
        "`pin_in_place` was asked for, and there is no CUDA device, its driver is older than CUDA 12.5, or no more memory can be pinned.",
        "Nothing: batches are pinned all the same, by a copy each. A newer driver makes it possible.",
    ),
)  # fmt: skip

RANKS = (
    (
        "SL107", "warning", "... samples are left out: ... ranks cannot have as many batches each",
        "`ElasticDistributedSampler(ends=\"even\")` leaves out the last samples where they do not fill a batch on each rank.",
        "Choose a batch size that divides, or `ends=\"pad\"`.",
    ),
    (
        "SL108", "warning; SettingsError under strict", "a sample that hangs can delay this rank by ..., but the other ranks give up after ...",
        "The process group's timeout is shorter than the longest recovery, so other ranks may end first.",
        "Give a shorter `batch_timeout`, or a longer timeout to `init_process_group`.",
    ),
    (
        "SL109", "log", "batch_timeout is limited to ..., so that a recovery takes no longer than the process group's timeout allows",
        "The learned or default `batch_timeout` was made to fit the process group.",
        "Nothing, or a longer timeout of the process group.",
    ),
    (
        "SL115", "log", "this rank cannot be put on the board",
        "The state of this rank's loaders is not published; training is not affected. The traceback follows.",
        "Look at the traceback; `SAFELOADER_BOARD=0` turns the board off.",
    ),
    (
        "SL116", "log", "the board of ranks is given up",
        "An error within the board; stalls of several ranks are not explained any more. The traceback follows.",
        "Please report it, with the traceback.",
    ),
    (
        "SL117", "log", "the store of the process group does not answer: ...",
        "Until it does, the other ranks cannot see the state of this rank's loaders. Training continues.",
        "Look at the network, and at the process that holds the store (usually rank 0).",
    ),
    ("SL118", "log", "the store of the process group answers again", "This rank is on the board again.", "Nothing."),
    (
        "SL120", "warning", "the dataset has changed in itself while it loaded, so the batches that come again may ...",
        "`rewind` went back. The workers' generators are as they were then, but not what the dataset keeps in itself.",
        "Nothing, if that is a cache. Else have samples depend on their index and on random generators only.",
    ),
    (
        "SL121", "log", "NOT protected: ... Its processes are not replaced when they die or hang; ...",
        "A loader of this program runs processes of its own, which safeloader cannot take over. Each kind is told once.",
        "The line says what to use in its place; `safeloader run` lists them at its end.",
    ),
    (
        "SL122", "log", "safeloader cannot attend to ...: is this version of it supported?",
        "A framework has changed where safeloader meets it. Its own way of making loaders is left as it is.",
        "Call `safeloader.patch()`, or use `safeloader.DataLoader`; tell the maintainers the version.",
    ),
    (
        "SL123", "log", "the checkpoint lacks the place in the data of ... of ... ranks: ...",
        "Lightning or Accelerate saved on one rank what the loaders of all ranks were to tell, and some did not within a "
        "minute. Those ranks cannot go on from this checkpoint in mid-epoch.",
        "Let all ranks save at the same step, as these frameworks want it, and give the loader the same name on each.",
    ),
    (
        "SL131", "warning or RanksDisagreeError", "rank ... iterates ... differently than rank ...",
        "Ranks iterate a loader with other data (seed, dataset length, place in the epoch) or another number of batches. "
        "A collective operation would wait for ever, or the training be wrong.",
        "Give all ranks the same seed, dataset and batch size, and call `set_epoch` on each. `Policy(rank_check=...)` says "
        "whether this warns or raises.",
    ),
    (
        "SL132", "log", "rank ... ended its epoch after ... batches, and this one goes on; try: ...",
        "Another rank has ended its epoch while this one waits.",
        "Give the ranks the same number of batches: `drop_last=True`, or an `ElasticDistributedSampler`.",
    ),
    (
        "SL133", "log", "ranks are not compared, because the store of the process group does not answer: ...",
        "Whether the ranks agree is not known.",
        "As SL117.",
    ),
)  # fmt: skip

TRAINING = (
    (
        "SL140", "log", "step ...: NaN / infinity in ...",
        "`FiniteGuard(action=\"warn\" or \"skip_step\")` found values that are not finite.",
        "Look at the first place that is named: a batch, a loss, gradients or weights.",
    ),
    (
        "SL141", "log", "... appeared with infinities: they are taken as meant",
        "A new tensor holds infinities from its beginning (a mask, a bound), so the guard does not report them.",
        "Nothing; name it in `may_be_infinite` to say so.",
    ),
    (
        "SL142", "log", "the learning rate is ..., not ...",
        "The learning rate does not follow the schedule that was described to `RateWatch`.",
        "Look at the order of `optimizer.step()` and `scheduler.step()`, and at what a resume restored.",
    ),
    (
        "SL143", "log", "setting ... was never read",
        "A setting of the configuration was given and nobody asked for it; a near name that was asked for is named.",
        "Correct its name, or remove it.",
    ),
    (
        "SL144", "log", "passed over: ...",
        "A checkpoint is damaged or not finite, so the one before it is taken.",
        "Nothing; `safeloader checkpoint check FILE` says what is wrong with it.",
    ),
    ("SL145", "log", "resumed from ... / nothing to resume from", "Where the training goes on.", "Nothing."),
    (
        "SL146", "log", "the metric of checkpoint ... is ...: it is saved without one",
        "The metric is NaN or infinite, so this checkpoint cannot be the best one.",
        "Look at why the metric is not finite.",
    ),
    (
        "SL147", "log", "the disk is full: ... is removed before the next checkpoint is written",
        "There is no room for another checkpoint beside the old ones; the newest good one is never removed.",
        "Make room, or keep fewer (`keep_last`).",
    ),
    (
        "SL148", "log", "many denormal numbers in ...",
        "Numbers close to zero make a CPU many times slower.",
        "`torch.set_flush_denormal(True)`; in float16, scale the loss.",
    ),
    (
        "SL149", "log", "what `MetricWatch` found: a collapse, a plateau, a jump ...",
        "The metric behaves as it does in one of the known failures; the line says since when, and what it looks like.",
        "See [helpers for a training loop](training.md).",
    ),
)  # fmt: skip

FFCV = (
    (
        "SL150", "log", "FFCV runs in the trainer, since its pipelines cannot be sent to a process: ...",
        "A supervised process was wanted, but an operation cannot be sent there. A crash of FFCV ends the program then.",
        "Make the operation of importable classes, without open handles.",
    ),
    (
        "SL151", "log", "the list of operations of a pipeline was changed after the loader was made",
        "As in FFCV, a loader keeps the operations that it was made with.",
        "Make a new loader; attributes of an operation may be changed between epochs.",
    ),
    (
        "SL152", "log", "no seed was given; all ranks take 0",
        "Without a seed, all ranks of a distributed run must use the same.",
        "Give `seed=` to choose the order.",
    ),
    (
        "SL153", "warning", "FFCV's compiled code cannot be kept in ...",
        "Pipelines are compiled in each process anew.",
        "Set `SAFELOADER_FFCV_CACHE` to a folder that can be written.",
    ),
    (
        "SL154", "log", "drop_last leaves out ... of ... samples in each epoch",
        "The last samples do not fill a batch.",
        "`drop_last=False`, or a batch size that divides.",
    ),
    (
        "SL155", "log", "num_workers=..., but there are ... cores",
        "FFCV's workers are threads; more of them than cores do not help, and numba allows no more.",
        "Give at most as many as there are cores.",
    ),
)  # fmt: skip
