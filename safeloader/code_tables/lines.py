"""Log lines about what happens to a loader (`safeloader.observe.messages`)."""

from __future__ import annotations

__all__ = ["COURSE", "FAULTS"]

FAULTS = (
    (
        "SL001", "log", "worker ... was killed by SIGKILL / crashed with SIGSEGV / ended with exit code ... while loading ...",
        "A worker process ended, by whatever cause. The line says in which sample, at which line of Python where that is "
        "known, and what is done: usually a new process takes over and loads the batch again.",
        "Once: nothing. The same sample again and again: load `dataset[index]` alone. A crash (SIGSEGV, SIGABRT) comes "
        "from native code: look at the place in the line. SIGKILL without a cause is often the kernel or a job manager "
        "that is short of memory.",
    ),
    (
        "SL002", "log", "worker ... was killed because memory is short ...",
        "The kernel killed a process for memory, or a SIGKILL met a machine with little memory left. The loader goes on with "
        "fewer processes where policy allows that.",
        "Use fewer workers, smaller batches, a smaller `prefetch_factor`, or `Policy(start_method=\"forkserver\")`, whose "
        "processes share most of their memory.",
    ),
    (
        "SL003", "log", "worker ... hung while loading ...: no sample finished for ..., stuck at ...",
        "A process finished no sample within `batch_timeout`. Its Python stack was read, then it was killed.",
        "Look at the place in the line: a lock, a network read, a deadlock between threads. If the sample is only slow, "
        "raise `batch_timeout`, or set it to `\"auto\"`.",
    ),
    (
        "SL004", "log", "worker ... was found stopped (SIGSTOP or a debugger) ...",
        "A process was stopped from outside and cannot go on by itself. It is replaced.",
        "Find out who stops processes: a debugger, a job manager, a freezer of containers.",
    ),
    (
        "SL005", "log", "worker ... did not start: ...",
        "A process was not ready within `startup_timeout`, or the system refused to start it; the reason stands in the line.",
        "Too many open files: raise `ulimit -n`. Too many processes: raise `ulimit -u`. Slow imports: raise "
        "`startup_timeout`, or `Policy(start_method=\"forkserver\")`. An error in it: the line shows its last line.",
    ),
    (
        "SL006", "log", "worker ... raised ... while loading ...",
        "The dataset, a transform or the collate function raised an exception. It is raised in the training loop at this "
        "batch's turn, as torch raises it, with a note that names the sample.",
        "Mend the sample or the code. `Policy(on_bad_sample=\"skip\")` leaves such samples out and lists them.",
    ),
    (
        "SL007", "log", "worker ... loaded batch ..., which cannot be sent to the main process: ...",
        "A batch was made, but something in it cannot be sent from a process to the training loop.",
        "Return tensors, arrays and plain values; the error names the part that cannot be sent.",
    ),
    (
        "SL008", "log", "sample ... is bad: it failed ... times",
        "A sample failed as often as policy tries it.",
        "Load `dataset[index]` alone in a fresh Python. `Policy(on_bad_sample=\"skip\")` leaves it out.",
    ),
    (
        "SL009", "log", "worker ...: another cause of a fault",
        "A fault with a cause of its own, such as a corrupt sample of an FFCV file.",
        "Read the cause in the line; `loader.report()` has the whole of it.",
    ),
)  # fmt: skip

COURSE = (
    ("SL010", "log", "process ... is ready after ...", "A process has started.", "Nothing."),
    ("SL011", "log", "process ... is ready after ..., in place of one that was lost", "A process took over.", "Nothing."),
    (
        "SL012", "log", "batches come again; fault ... cost ...",
        "The batch that a fault held up has been delivered. \"no batch is lost\" is said where that is certain.",
        "Nothing. `loader.report()` adds up what faults cost.",
    ),
    (
        "SL013", "log", "falls back from ... processes to ... (too many faults, the last: ...)",
        "There were more faults than `max_restarts` within `restart_period`, or memory is short. The same workers are "
        "served by fewer processes, or by the main process; the batches stay the same, loading is slower.",
        "Mend what the faults have in common (`loader.report()`); raise `max_restarts` if they are expected.",
    ),
    (
        "SL014", "log", "recovers from ... processes to ...",
        "`recover_after` batches came without a fault, so one more fallback level is undone.",
        "Nothing.",
    ),
    (
        "SL015", "log", "worker ... is slow: ... on batch ...; samples still finish, so nothing is killed",
        "A batch takes longer than `batch_timeout`, but its samples finish one after another.",
        "Raise `batch_timeout` if that is normal; look at the disk or the network if not. The 1st, 2nd, 4th, 8th ... of "
        "them are logged.",
    ),
    (
        "SL016", "log", "left out bad sample ... of batch ...",
        "`on_bad_sample` is `skip`: a sample that kills, hangs or raises was left out, so its batch is smaller.",
        "Read `loader.report().skipped`, and mend or remove these samples.",
    ),
    ("SL017", "log", "epoch ... ended after ... batches", "An epoch was delivered to its end.", "Nothing."),
    ("SL018", "log", "closed after ... batches in ... epochs, with ... faults", "The loader ended.", "Nothing."),
    ("SL019", "log", "epoch ... has images of ... pixels, after ...", "FFCV: an epoch's size differs.", "Nothing."),
    (
        "SL020", "log", "worker ... stands where it stood: ... batches that it had loaded came again the same",
        "A worker was brought to its place in another process by loading again, and what came is what was delivered.",
        "Nothing. `state_dict()` and `load_state_dict()` of the dataset make this faster.",
    ),
    (
        "SL021", "log", "worker ... goes on ..., and there was nothing to compare with: that this is exact is not known",
        "A worker was brought to its place, and no batch that had been delivered could be compared.",
        "Give an iterable dataset a seed, or a `state_dict`; see [limits](limits.md).",
    ),
    (
        "SL022", "log", "worker ... reads ... again, and it is not the same: ...",
        "A dataset gives other data when it is read again, so a lost worker cannot be brought to its place exactly.",
        "Seed what the dataset draws, so that reading twice gives the same. `Policy(on_divergence=\"warn\")` goes on with "
        "what comes; samples may then come twice or never.",
    ),
    (
        "SL023", "log", "the dataset of worker ... does not take the state that it told",
        "The dataset's `load_state_dict` raised, or does not restore what its `state_dict` said.",
        "Mend `load_state_dict`; until then the epoch is read again from its beginning.",
    ),
    (
        "SL024", "log", "worker ...: random generators of its dataset could not be put back, and draw other numbers",
        "Generator objects that the dataset holds could not be restored in the new process.",
        "Make them in `__init__` or when the first sample is asked for, under the same attribute.",
    ),
    (
        "SL025", "log", "... could not be undone in the main process; worker ... goes on in a process of its own",
        "A worker that the main process hosts was about to change it for good (a call such as `os.nice`).",
        "Do such things in `worker_init_fn` only where `get_worker_info()` says that this is a process of its own.",
    ),
    (
        "SL026", "log", "source changed since the first start: ...; processes started from now on run the new code",
        "A file of the dataset was edited while the program runs; a replaced process imports the new text.",
        "Restart the program if old and new code must not be mixed.",
    ),
    (
        "SL027", "log", "a process cannot keep a sleeping copy of itself: ...",
        "Copies of processes preserve what a dataset changes in itself; this process cannot be copied, for that reason.",
        "Open connections and start threads later, or give the dataset a `state_dict`; or `Policy(shadow=False)`.",
    ),
    (
        "SL028", "log", "process ... is not in all as the program was when iteration began: ...",
        "A new process could not take over everything from the program: a limit was lowered, a folder is gone.",
        "Change limits and the working directory before the loader is iterated.",
    ),
    (
        "SL029", "log", "process ... is not ready after ...; it is waited for",
        "A start takes much longer than others did. The line says how far it is, and where it stands.",
        "Nothing, once: on a busy disk this happens. If it stands, it is replaced after `startup_timeout`.",
    ),
    (
        "SL030", "log", "no batch for ...: the program waits for batch ...; worker ... has worked on sample ...",
        "The training loop has waited for `stall_report` seconds. The line names the worker and the sample.",
        "Nothing, if the sample may take so long: `batch_timeout` ends it otherwise.",
    ),
    (
        "SL031", "log", "no batch for ...: the sampler was asked for the next indices and gives none; it is at ...",
        "The sampler, which runs in the main process, does not return.",
        "Look at the place in the line: it is code of the sampler.",
    ),
    (
        "SL032", "log", "the training step has held its thread for ... at ...; ... batches are ready",
        "The loader is not the cause: batches are ready, and the training step does not ask for the next one.",
        "Look at the place in the line: often a collective operation that waits for another rank, or an accelerator.",
    ),
    (
        "SL033", "log", "no batch has been asked for in ..., and no epoch is under way; the program is at ...",
        "The program does something else than training or validating: it writes a checkpoint, waits, computes a metric.",
        "Look at the place in the line. Longer pauses can be announced with a larger `stall_report`.",
    ),
    (
        "SL034", "log", "rank ... waits / is silent / has left ...",
        "Rank 0 has made no step for `stall_report` seconds; the board of all ranks says which rank holds up the others.",
        "Look at that rank's log, or `safeloader top`.",
    ),
    (
        "SL037", "log", "worker ... has a new copy of its dataset: what the dataset had changed in itself is lost with its process",
        "A dataset that changes itself while it loads (a cache, a counter) was lost with its process, and no copy of that "
        "was there. Batches may not be those of an undisturbed run.",
        "Give the dataset `state_dict` and `load_state_dict`, or `Policy(shadow=True)`; see [limits](limits.md).",
    ),
    (
        "SL036", "log", "too many faults for ... processes; they stay, since fewer would lose ...",
        "A fallback is due, but a worker that moves would lose what its dataset has changed in itself. It is put off.",
        "Mend what the faults have in common, or give the dataset a `state_dict`.",
    ),
    (
        "SL038", "log", "each worker opens for itself: ...",
        "The dataset holds open files or handles; each process has opened its own, at the same place.",
        "Nothing.",
    ),
    (
        "SL039", "log", "processes stay on this host: ...",
        "`Policy(hosts=...)` asks for processes on other hosts, and there are none to be had for that reason: no Ray, a "
        "cluster that does not answer or has no room, a host with another Python, torch or source, a dataset that shares "
        "memory or open files with this program. The loader works with processes on this host.",
        "Read the reason; see [hosts](hosts.md). Give the cluster more processors, or the same packages everywhere.",
    ),
    (
        "SL040", "log", "process ... stands in for process ... on ...",
        "A process works on another host; the first number is that of the small process here that stands in for it.",
        "Nothing.",
    ),
    (
        "SL041", "log", "what the dataset names is not on ...: ...",
        "A process works on another host, on which paths do not exist that the dataset holds and that exist on the "
        "trainer's. A sample that needs one will fail there, with an error of its own; one that nobody needs there costs nothing.",
        "Have the files under the same names on all hosts, or leave out that host: `RayHosts(resources=...)`.",
    ),
    ("SL035", "log", "goes on, after standing still for ...", "A stall (SL030 to SL034) is over.", "Nothing."),
)  # fmt: skip
