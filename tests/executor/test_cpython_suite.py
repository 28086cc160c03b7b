"""SandboxExecutor keeps the contract of the executors: CPython's own tests of them, those that apply."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.executor import cpython

# Every test of the suite is in one of the two tables below, by the class that it is written in.
RUN: dict[str, tuple[str, ...]] = {
    "ExecutorTest": (
        *("test_submit", "test_submit_keyword", "test_map", "test_map_exception", "test_map_timeout", "test_free_reference"),
        *("test_shutdown_race_issue12456", "test_no_stale_references", "test_max_workers_negative"),
    ),
    "ProcessPoolExecutorTest": (
        *("test_map_chunksize", "test_traceback", "test_idle_process_reuse_one", "test_idle_process_reuse_multiple"),
        *("test_max_tasks_per_child", "test_max_tasks_early_shutdown"),
    ),
    "InitializerMixin": ("test_initializer",),
    "FailingInitializerMixin": ("test_initializer",),
    "ExecutorShutdownTest": (
        *("test_run_after_shutdown", "test_interpreter_shutdown", "test_submit_after_interpreter_shutdown"),
        *("test_hang_issue12364", "test_cancel_futures", "test_hang_gh83386", "test_hang_gh94440"),
    ),
    "ProcessPoolShutdownTest": ("test_context_manager_shutdown", "test_del_shutdown", "test_shutdown_no_wait"),
    "WaitTests": (
        *("test_20369", "test_first_completed", "test_first_completed_some_already_completed", "test_first_exception"),
        *("test_first_exception_some_already_complete", "test_first_exception_one_already_failed", "test_all_completed"),
        "test_timeout",
    ),
    "AsCompletedTests": (
        *("test_no_timeout", "test_zero_timeout", "test_future_times_out", "test_duplicate_futures"),
        *("test_free_reference_yielded_future", "test_correct_timeout_exception_msg"),
    ),
    "ExecutorDeadlockTest": (
        *("test_error_at_task_pickle", "test_crash_at_task_unpickle", "test_crash_during_func_exec_on_worker"),
        *("test_error_during_func_exec_on_worker", "test_crash_during_result_pickle_on_worker"),
        *("test_error_during_result_pickle_on_worker", "test_shutdown_deadlock", "test_shutdown_deadlock_pickle"),
        "test_crash_big_data",
    ),
}
# These return objects of classes of their own, which is what trust_results=True is for.
TRUSTING = (
    *("test_free_reference", "test_crash_during_result_pickle_on_worker", "test_error_during_result_pickle_on_worker"),
)

_SHARED = "shares a multiprocessing semaphore or manager with its workers; ours reach nothing outside of themselves"
_EXIT = "a function's SystemExit must not end its caller: it comes back as a RemoteError"
_UNPICKLED = "a call that cannot be unpickled in its worker fails alone, by the exception it raised there; the pool goes on"
_RESULT = "a result that cannot be unpickled here fails alone, by a RemoteError; the pool goes on"
_THREADS = "about ThreadPoolExecutor's threads"
_FUTURE = "about concurrent.futures.Future itself, which ours inherits from unchanged"
NOT_APPLICABLE: dict[str, dict[str, str]] = {
    "ProcessPoolExecutorTest": {
        "test_max_workers_too_large": "about Windows",
        "test_killed_child": "expects the whole pool to break; here a worker that died is replaced",
        "test_ressources_gced_in_workers": _SHARED,
        "test_saturation": _SHARED,
        "test_max_tasks_per_child_defaults_to_spawn_context": "there is no multiprocessing context",
        "test_python_finalization_error": "the second thread of ProcessPoolExecutor is refused; ours has one thread",
    },
    "ProcessPoolShutdownTest": {"test_processes_terminate": _SHARED},
    "FailingInitializerResourcesTest": {
        "test_spawn": "about multiprocessing's resource tracker, which has nothing of ours",
        "test_forkserver": "about multiprocessing's resource tracker, which has nothing of ours",
    },
    "ExecutorDeadlockTest": {
        "test_exit_at_task_unpickle": _UNPICKLED,
        "test_error_at_task_unpickle": _UNPICKLED,
        "test_exit_during_func_exec_on_worker": _EXIT,
        "test_exit_during_result_pickle_on_worker": _EXIT,
        "test_error_during_result_unpickle_in_result_handler": _RESULT,
        "test_exit_during_result_unpickle_in_result_handler": _RESULT,
        "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": "replaces ProcessPoolExecutor's wake-up pipe, which we have none of",
    },
}
# Whole classes, with all their tests.
OTHERS = {
    "ThreadPoolExecutorTest": _THREADS,
    "ThreadPoolShutdownTest": _THREADS,
    "ThreadPoolWaitTests": _THREADS,
    "FutureTests": _FUTURE,
}
# A class inherits the tests of another, which run by their own name.
INHERITED = {"ProcessPoolExecutorTest": "ExecutorTest", "ProcessPoolShutdownTest": "ExecutorShutdownTest"}

# Most of them sleep for a while, each beside its own workers, so they run at the same time; but for those that set a signal
# handler, which is the main thread's, and those that replace what the whole process has: its stderr, a logger.
ALONE = ("test_hang_gh94440", "test_traceback", "test_initializer")
AT_ONCE = 4
pytestmark = pytest.mark.timeout(600)  # the first test waits for all of them
SUITE = cpython.modules()
CASES = [
    (family, test)
    for family, tests in RUN.items()
    for test in tests
    if SUITE and test in cpython.names_of(cpython.found(family))
]
PACKAGE = "libpython{}.{}-testsuite".format(*sys.version_info)
needs_suite = pytest.mark.skipif(not SUITE, reason=f"{cpython.SUITE} is not installed: Debian has it in {PACKAGE}")


@pytest.fixture(scope="module")
def told() -> dict[tuple[str, str], list[str]]:
    """Run the suite; returns what went wrong in each test. No thread is left of it."""
    threads = set(threading.enumerate())
    with cpython.ours():
        found = {case: run(*case) for case in CASES if case[1] in ALONE}
        with ThreadPoolExecutor(AT_ONCE) as beside:
            futures = {case: beside.submit(run, *case) for case in CASES if case[1] not in ALONE}
    left = [thread for thread in threading.enumerate() if thread not in threads]
    assert left == []
    return found | {case: future.result() for case, future in futures.items()}


def run(family: str, test: str) -> list[str]:
    """Run one test of the suite; returns what went wrong."""
    return cpython.run(cpython.case(family, test, trusting=test in TRUSTING))


@needs_suite
@pytest.mark.parametrize(("family", "test"), CASES or [("", "")])
def test_the_suite_passes(told: dict[tuple[str, str], list[str]], family: str, test: str) -> None:
    """What CPython asks of its executors holds for this one."""
    assert told[family, test] == [], "\n".join(told[family, test])


@needs_suite
def test_no_test_of_the_suite_is_left_out() -> None:
    """Each test that the suite of this Python has is run, or does not apply for a reason that is written down."""
    unnamed = []
    for family, kind in cpython.families().items():
        if family in OTHERS:
            continue
        mine = cpython.names_of(kind) - cpython.names_of(cpython.found(INHERITED.get(family, "")) or object)
        named = {*RUN.get(family, ()), *NOT_APPLICABLE.get(family, {})}
        unnamed += [f"{family}.{test}" for test in sorted(mine - named)]
    assert unnamed == []
    assert {*RUN, *NOT_APPLICABLE} - set(cpython.families()) - {"FailingInitializerResourcesTest"} == set()


def test_no_test_is_both_run_and_not_applicable() -> None:
    """The two tables do not contradict each other."""
    both = [f"{family}.{test}" for family, tests in RUN.items() for test in tests if test in NOT_APPLICABLE.get(family, {})]
    assert both == []
