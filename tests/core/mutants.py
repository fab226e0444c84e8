"""Faults put into a copy of the core by replacing a piece of its text. The walks must notice each of them."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safeloader.core

__all__ = ["MUTANTS", "Mutant"]

_SHARED = ("messages", "state")  # the world speaks the same words
_IN_ORDER = (
    "policy", "leases", "hunt", "records", "story", "progress", "ledger", "fleet", "traffic", "watch", "blame", "recovery",
    "supervisor",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One fault: in ``module``, ``old`` becomes ``new``."""

    name: str
    module: str
    old: str
    new: str

    def supervisor(self) -> Any:
        """The Supervisor class of a copy of the core that has this fault."""
        package = ModuleType(f"mutant_{self.name}")
        package.__path__ = []
        sys.modules[package.__name__] = package
        for name in _SHARED:
            shared = importlib.import_module(f"safeloader.core.{name}")
            sys.modules[f"{package.__name__}.{name}"] = shared
            setattr(package, name, shared)
        for name in _IN_ORDER:
            self._load(package, name)
        return getattr(package, "supervisor").Supervisor

    def _load(self, package: ModuleType, name: str) -> None:
        path = Path(safeloader.core.__path__[0], f"{name}.py")
        text = path.read_text()
        if name == self.module:
            found = text.count(self.old)
            if found != 1:
                raise LookupError(f"{self.name}: found {found} times in {name}.py: {self.old!r}")
            text = text.replace(self.old, self.new)
        module = ModuleType(f"{package.__name__}.{name}")
        module.__package__ = package.__name__
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        exec(compile(text, f"{path} ({self.name})", "exec"), module.__dict__)

    def forget(self) -> None:
        """Take the copy out of ``sys.modules``."""
        for name in [n for n in sys.modules if n.split(".")[0] == f"mutant_{self.name}"]:
            del sys.modules[name]
        importlib.invalidate_caches()


MUTANTS = (
    # ---------------------------------------------------------------- messages and memory
    Mutant(
        "an_answer_counts_whoever_gives_it", "traffic",
        "        process = self._sup.fleet.processes.get(number)\n        if process is not None and process.work:\n",
        "        everyone = self._sup.fleet.processes\n"
        "        process = everyone.get(number) or next((p for p in everyone.values() if p.work and"
        " p.work[0].about == about), None)\n"
        "        if process is not None and process.work:\n",
    ),
    Mutant("an_answer_is_taken_for_another", "traffic", "if head.about == about and head.kind == kind:", "if True:"),
    Mutant(
        "an_abandoned_process_stays_on_the_books", "recovery",
        "        del self._sup.fleet.processes[process.id]\n",
        "        if event is not None:\n            del self._sup.fleet.processes[process.id]\n",
    ),
    Mutant(
        "a_lease_is_freed_at_the_kill", "watch",
        "        self._sup.emit(m.KillProcess(process.id))\n",
        "        self._sup.emit(m.KillProcess(process.id))\n"
        "        for work in process.work:\n"
        "            if work.kind == 'task':\n                self._sup.ledger.free_lease(work.task)\n",
    ),
    Mutant(
        "an_abandoned_process_gives_its_lease_back", "recovery",
        "self._sup.leases.retire(item.lease)", "self._sup.leases.give_back(item.lease)",
    ),
    Mutant(
        "a_lease_returned_twice_frees_its_slot", "leases",
        "        if self._held.get(lease.slot) != lease.serial:\n            return None\n",
        "        if lease.slot not in self._held:\n            return None\n",
    ),
    Mutant("a_small_batch_keeps_its_lease", "traffic", "event.nbytes == 0 or event.batch is None", "False"),
    Mutant(
        "an_abandoned_batch_keeps_its_lease", "ledger",
        "        self.free_lease(task)\n        del self.tasks[task.id]\n", "        del self.tasks[task.id]\n",
    ),
    Mutant("a_surplus_slot_is_used_again", "leases", "            self.retired.add(coldest)\n", "            self._free.append(coldest)\n"),
    # ---------------------------------------------------------------- tasks
    Mutant("a_lost_task_goes_last", "recovery", "worker.waiting.appendleft(item)", "worker.waiting.append(item)"),
    Mutant("a_lost_task_is_forgotten", "recovery", "            worker.waiting.appendleft(item)\n", ""),
    Mutant("an_abandoned_task_is_delivered", "ledger", "        if task.abandoned:\n", "        if False:\n"),
    Mutant(
        "an_abandoned_task_is_not_finished", "ledger",
        "            worker.ended, worker.outstanding = False, 0\n",
        "            worker.ended, worker.outstanding = False, 0\n"
        "            for task in [t for t in worker.waiting if isinstance(t, Task)]:\n"
        "                worker.waiting.remove(task)\n                self._forget(task)\n",
    ),
    Mutant("the_new_epoch_is_not_announced", "ledger", "worker.waiting.append(Resume(epoch, self._next_task))", "pass"),
    Mutant("batches_leave_as_they_come", "ledger", "if queue and queue[0].state is TaskState.SETTLED else None",
           "if queue and queue[0].state is TaskState.SETTLED else next((t for t in queue if t.state is"
           " TaskState.SETTLED), None)"),
    Mutant("a_draw_is_forgotten", "ledger", "not self.plan_over and len(self.queue) < self.window", "not self.plan_over and 1 != len(self.queue) < self.window"),
    Mutant("a_draw_too_many", "ledger", "range(self.window - len(self.queue))", "range(self.window - len(self.queue) + 1)"),
    Mutant("the_turn_is_not_kept", "ledger", "self._first_of_epoch, self.turn = epoch, self._next_task, 0",
           "self._first_of_epoch = epoch, self._next_task"),
    Mutant("an_ended_iterator_stays_in_turn", "ledger", "            worker.ended = True\n            self._active -= 1\n", "            pass\n"),
    # ---------------------------------------------------------------- time
    Mutant("no_deadline_is_set", "traffic", "            self._sup.watch.arm(process)\n\n", "            pass\n\n"),
    Mutant("progress_is_not_seen", "watch", "process.since, event.progressed_at,", "process.since,"),
    Mutant("silence_is_not_seen", "watch", "progress + allowed > now and not stopped", "True"),
    Mutant("only_the_oldest_message_can_hold_up", "watch", "for work in process.work:", "for work in [process.work[0]]:"),
    Mutant("stacks_do_not_lead_to_the_kill", "watch",
           "            process.stack = event.text\n            self._kill(process)\n",
           "            process.stack, process.deadline = event.text, math.inf\n"),
    Mutant("an_unkillable_process_is_waited_for", "watch", "self._sup.now + self._sup.settings.kill_timeout", "math.inf"),
    Mutant("a_process_that_does_not_end_is_waited_for", "watch", "self._sup.now + self._sup.settings.stop_timeout", "math.inf"),
    Mutant("a_false_alarm_kills", "traffic",
           "                if process.state is ProcessState.CAPTURING:\n                    self._sup.watch.acquit(process)\n", ""),
    Mutant("what_waited_for_a_false_alarm_is_not_sent", "watch",
           "self._sup.fleet.unbalanced = process.state is ProcessState.CAPTURING or self._sup.fleet.unbalanced", "pass"),
    Mutant("a_second_attempt_has_no_more_time", "policy", "seconds * 2 ** min(attempts, 16)", "seconds"),
    # ---------------------------------------------------------------- how many, and where
    Mutant("no_fallback", "fleet", "        if self.rung == self.rungs[-1]:\n            return False\n", "        return False\n"),
    Mutant("never_up_again", "fleet", "        self._good += 1\n", ""),
    Mutant("old_faults_count_for_ever", "policy", "        while self._hits[0] < now - self._period:\n            self._hits.popleft()\n", ""),
    Mutant("any_number_of_faults_is_borne", "policy", "return max(len(self._hits), self.row) > self._limit", "return False"),
    Mutant("a_good_task_changes_nothing", "traffic", "        self._sup.fleet.faults.row = 0\n", ""),
    Mutant("rare_faults_are_borne_for_ever", "policy", "max(len(self._hits), self.row)", "len(self._hits)"),
    Mutant("a_replacement_before_the_exit", "fleet", "wanted - len(staff) - self.dying()", "wanted - len(staff)"),
    Mutant("something_starts_after_the_end", "fleet", "        if self._sup.closed:\n            return\n        escort", "        escort"),
    Mutant("what_kills_is_tried_in_the_trainer", "fleet", "return self.rung == 0 and not worker.tainted", "return self.rung == 0"),
    Mutant("a_worker_moves_with_tasks_in_flight", "fleet",
           "        if worker.host is None or worker.sent:\n            return\n        process = self.processes[worker.host]\n"
           "        if not process.alive or any(work.worker == worker.id for work in process.work):\n            return\n",
           "        if worker.host is None:\n            return\n        process = self.processes[worker.host]\n"),
    Mutant("a_worker_that_should_move_stays", "fleet", "        if worker.moving:\n            self._move_if_drained(worker)\n        el", "        "),
    Mutant("the_generators_stay_behind", "traffic", "worker.epoch_snapshot, worker.snapshot, mark", "worker.epoch_snapshot, worker.epoch_snapshot, mark"),
    Mutant("an_iterator_begins_anew", "traffic", "worker.epoch, worker.position, worker.exhausted,\n", "worker.epoch, 0, worker.exhausted,\n"),
    Mutant("the_epochs_first_state_is_not_kept", "traffic", "        worker.epoch_snapshot = worker.snapshot\n", ""),
    Mutant("making_a_new_iterator_moves_nothing", "traffic", "        worker.epoch_snapshot = worker.snapshot\n        if event.snapshot is not None:\n",
           "        worker.epoch_snapshot = worker.snapshot\n        if False:\n"),
    Mutant("making_the_first_iterator_moves_nothing", "traffic", "        worker = self._sup.workers[work.worker]\n        if event.snapshot is not None:\n",
           "        worker = self._sup.workers[work.worker]\n        if False:\n"),
    # ---------------------------------------------------------------- standbys
    Mutant("a_standby_is_not_used", "fleet", "        process = self.standby()\n        if process is None:\n", "        process = None\n        if process is None:\n"),
    Mutant("a_standby_stays_one_when_it_takes_over", "fleet", "        process.standby = False\n", ""),
    Mutant("a_used_standby_is_not_replaced", "fleet", "            for _ in range(wanted - len(kept)):\n", "            for _ in range(wanted - len(kept) if self._next_process < 6 else 0):\n"),
    Mutant("standbys_stay_below_the_top_rung", "fleet", "wanted = self._standby if self.rung == self.rungs[0] > 0 else 0", "wanted = self._standby"),
    Mutant("standbys_start_with_the_first", "fleet", "        if all(p.state is ProcessState.READY for p in self.staff()) and not self.dying():\n", "        if True:\n"),
    Mutant("a_condemned_standby_takes_over", "fleet", "if p.standby and p.alive]", "if p.standby]"),
    Mutant("a_dying_standby_counts_as_a_dying_process", "fleet", "not p.asked and not p.standby for p", "not p.asked for p"),
    Mutant("standbys_are_tried_for_ever", "fleet", "        if self._standby_faults.add(self._sup.now) or cause == \"oom\":\n            self._standby = 0\n", "        pass\n"),
    Mutant("a_lost_standby_counts_against_the_ladder", "recovery", "        if process.standby:\n            self._sup.fleet.standby_lost(cause)\n        elif not", "        if not"),
    Mutant("a_standby_that_was_stopped_is_not_looked_at", "fleet", "            self._sup.emit(m.InspectProcess(process.id))", "            pass"),
    # ---------------------------------------------------------------- blame
    Mutant("a_bad_sample_is_tried_for_ever", "blame", "case.hurt > self._sup.settings.bad_sample_attempts", "False"),
    Mutant("judged_too_early", "blame", "case.hurt > self._sup.settings", "case.hurt >= self._sup.settings"),
    Mutant("the_wrong_sample_is_convicted", "blame", "case.same_sample and case.sample in left", "left"),
    Mutant("a_skipped_sample_is_loaded", "traffic", "item.indices, item.skip, lease", "item.indices, (), lease"),
    Mutant("a_hunt_leaves_its_traces", "traffic", "        if self._sup.blame.probe_survived(worker):\n", "        if not self._sup.blame.probe_survived(worker):\n"),
    Mutant("a_hunt_looks_in_the_wrong_half", "hunt", "self.suspects[middle:] if self._first_half_survived else self.suspects[:middle]",
           "self.suspects[:middle]"),
    Mutant("a_refusal_is_taken_lightly", "recovery", "if not self._sup.fleet.proven or hurt >=", "if hurt >="),
    Mutant("any_refusal_ends_it", "recovery", "if not self._sup.fleet.proven or hurt >= self._sup.settings.bad_sample_attempts:", "if True:"),
    Mutant("setting_up_is_tried_for_ever", "recovery", "        elif self._sup.workers[work.worker].setup_hurt > self._sup.settings.bad_sample_attempts:\n", "        elif False:\n"),
    Mutant("a_worker_is_told_the_epoch_before", "traffic", "worker.id, item.epoch)", "worker.id, worker.epoch)"),
    Mutant("a_worker_is_hosted_in_another_epoch", "traffic", "process.id, worker.id, worker.epoch, worker.position",
           "process.id, worker.id, self._sup.epoch, worker.position"),
    # ---------------------------------------------------------------- the state
    Mutant("what_was_prefetched_counts_as_got", "progress", "worker.epoch_snapshot, worker.got_snapshot, mark, replay)",
           "worker.epoch_snapshot, worker.snapshot, mark, replay)"),
    Mutant("what_was_handed_over_counts_as_got", "progress", "        if event.received:\n", "        if True:\n"),
    Mutant("a_state_before_all_have_begun_the_epoch", "progress", "        if not behind:\n", "        if True:\n"),
    Mutant("who_is_behind_in_the_trainer_is_waited_for", "progress", "self._sup.traffic.load_inline(worker)", "pass"),
    Mutant("a_mark_of_what_was_not_got", "progress", "if mark.position <= worker.got]", "if True]"),
    Mutant("the_log_before_the_first_mark_is_forgotten", "progress", "    if worker.marks[0].position <= worker.got:\n", "    if True:\n"),
    Mutant("too_much_is_replayed", "progress", "until - first]", "]"),
    Mutant("the_turn_is_not_restored", "ledger", "self.epoch, self.turn, self.plan_over = state.epoch, state.turn, state.exhausted",
           "self.epoch, self.plan_over = state.epoch, state.exhausted"),
    Mutant("draws_are_not_counted_on", "ledger", "self._first_of_epoch = self._next_task - state.drawn", "self._first_of_epoch = 0"),
    Mutant("no_state_after_the_end", "progress", "        self._final[True] = self.state()\n", ""),
    # ---------------------------------------------------------------- what nobody wants
    Mutant("what_is_on_its_way_and_abandoned_is_begun", "ledger", "            self._sup.traffic.pass_over(self._next_task)\n", ""),
    Mutant("what_waits_and_is_abandoned_is_sent", "ledger", "            self.leave_undone()\n", ""),
    Mutant("what_was_lost_and_is_abandoned_is_sent_again", "recovery", "            self._sup.ledger.leave_undone()\n", "            pass\n"),
    Mutant("what_is_wanted_is_passed_over", "ledger", "self._sup.traffic.pass_over(self._next_task)", "self._sup.traffic.pass_over(self._next_task + 1)"),
    Mutant("what_moves_generators_is_left_undone", "ledger", "if self._sup.settings.memoryless and not self._sup.closed:", "if not self._sup.closed:"),
    Mutant("what_was_passed_over_keeps_its_memory", "traffic", "        self._sup.ledger.settle(work.task, None)\n        self._sup.fleet.progressed(worker)\n\n    def _worker_ended",
           "        self._sup.tasks.pop(work.task.id)\n        self._sup.fleet.progressed(worker)\n\n    def _worker_ended"),
    # ---------------------------------------------------------------- neighbours in a pool
    Mutant("a_loss_by_anothers_doing_is_a_fault", "recovery", "if process.asked or process.innocent:", "if process.asked:"),
    Mutant("what_another_had_killed_gets_work", "watch",
           "        process.innocent, process.cause = True, None\n        self._await_exit(process)\n",
           "        process.innocent, process.cause = True, None\n"),
    Mutant("work_for_another_is_a_hang", "watch",
           "            process.deadline = now + self._allowed(head)\n            return\n", "            pass\n"),
    Mutant("work_for_another_is_a_failed_start", "watch", "            if event.elsewhere:\n", "            if False:\n"),
    Mutant("who_works_for_another_is_never_looked_at_again", "watch",
           "            process.deadline = now + self._allowed(head)\n            return\n", "            process.deadline = math.inf\n            return\n"),
    Mutant("a_shared_process_that_starts_is_killed", "watch",
           "if process.state is ProcessState.STARTING and not self._sup.settings.shared:", "if process.state is ProcessState.STARTING:"),
    # ---------------------------------------------------------------- the end
    Mutant("a_starting_process_is_left_behind", "fleet", "            if process.id != m.INLINE and process.alive:\n",
           "            if process.id != m.INLINE and process.state is ProcessState.READY:\n"),
    Mutant("who_asks_after_the_end_waits", "supervisor", "            self.emit(self._given_up)\n", "            pass\n"),
    Mutant("loaded_batches_are_kept_at_the_end", "supervisor", "        self.ledger.abandon_rest()\n", ""),
)  # fmt: skip
