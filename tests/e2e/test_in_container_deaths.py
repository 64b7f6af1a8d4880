"""A test whose process ends before its time fails with the true reason, and the tests after it run."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

DEATHS = """
import os
import signal
import sys
import time

import pytest


def test_before():
    pass


def test_exits():
    print("last words")
    os._exit(3)


def test_kills_itself():
    sys.stderr.write("bye")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_segfaults():
    import ctypes
    ctypes.string_at(0)


@pytest.fixture
def deadly():
    os._exit(0)


def test_dies_in_setup(deadly):
    pass


@pytest.fixture
def deadly_later():
    yield
    os._exit(1)


def test_dies_in_teardown(deadly_later):
    pass


@pytest.mark.xfail(reason="it does that")
def test_expected_to_die():
    os._exit(1)


def test_system_exit():
    sys.exit(4)


def test_forks_and_returns():
    if os.fork() == 0:
        return
    os.wait()


def test_after():
    pass
"""


@pytest.fixture
def contained(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("COLUMNS", "140")
    pytester.plugins = ["plain_fork_backend"]
    return pytester


def run(contained: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return contained.runpytest_subprocess(
        "-p", "plain_fork_backend", "--in-container", "-p", "no:cacheprovider", *arguments, timeout=60
    )


@pytest.mark.parametrize("how", [["-v"], ["-v", "-n2"], ["-v", "--contain-isolation=module"]], ids=" ".join)
def test_every_way_to_die_is_one_failure_with_its_reason(contained: pytest.Pytester, how: list[str]) -> None:
    contained.makepyfile(DEATHS)
    result = run(contained, *how)
    result.assert_outcomes(passed=4, failed=4, errors=2, xfailed=1)
    text = result.stdout.str()
    assert "the test's process called exit with status 3" in text
    assert "killed by SIGKILL" in text
    assert "killed by SIGSEGV" in text
    assert "last words" in text
    assert "Fatal Python error: Segmentation fault" in text
    for name in ("test_dies_in_setup", "test_dies_in_teardown"):  # with -n, tests are told as they end
        result.stdout.fnmatch_lines([f"ERROR *::{name} - *"])
    assert result.ret == 1


def test_a_test_that_hangs_is_ended_and_shows_where_it_was(contained: pytest.Pytester) -> None:
    contained.makepyfile(
        """
        import time
        def waits_for_ever():
            print("waiting")
            time.sleep(1000)
        def test_hangs():
            waits_for_ever()
        def test_after():
            pass
        """
    )
    result = run(contained, "--contain-timeout=0.5")
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "timeout: the test took longer than 0.5 seconds" in text
    assert "in waits_for_ever" in text
    assert "waiting" in text


def test_a_mark_gives_one_test_its_own_time_limit(contained: pytest.Pytester) -> None:
    contained.makepyfile(
        """
        import pytest, time
        @pytest.mark.contain(timeout=0.3)
        def test_hangs():
            time.sleep(1000)
        """
    )
    result = run(contained, "--strict-markers")
    result.assert_outcomes(failed=1)
    assert "longer than 0.3 seconds" in result.stdout.str()


def test_what_the_container_saw_is_the_reason(contained: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIN_FORK_VERDICT", "dict(out_of_memory=True, memory_limit_bytes=512<<20)")
    contained.makepyfile("import os\ndef test_big(): os.kill(os.getpid(), 9)")
    result = run(contained)
    assert "killed by SIGKILL: memory limit 512 MiB reached" in result.stdout.str()


def test_processes_left_behind_fail_their_test_unless_told_otherwise(
    contained: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAIN_FORK_VERDICT", "dict(leftover_processes=2)")
    contained.makepyfile("def test_daemon(): pass")
    result = run(contained)
    result.assert_outcomes(passed=1, errors=1)
    assert "the test left 2 processes behind in its container" in result.stdout.str()
    run(contained, "-o", "contain_leftover=warn").assert_outcomes(passed=1, warnings=1)
    run(contained, "-o", "contain_leftover=ignore").assert_outcomes(passed=1)


def test_output_without_end_is_cut_in_the_report(contained: pytest.Pytester) -> None:
    contained.makepyfile(
        """
        def test_floods():
            for _ in range(300):
                print("x" * 100_000)
            assert 0
        """
    )
    result = run(contained)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "bytes left out ..." in text
    assert len(text) < 3_000_000


def test_a_message_that_is_too_large_or_no_report_ends_its_test_only(contained: pytest.Pytester) -> None:
    contained.makepyfile(
        """
        import os, socket, struct
        def channel():
            for number in map(int, os.listdir("/proc/self/fd")):
                if number >= 700:
                    return number
        def test_claims_too_much():
            os.write(channel(), struct.pack(">I", 1 << 31) + b"x")
            import time; time.sleep(100)
        def test_lies():
            os.write(channel(), struct.pack(">I", 30) + b'{"type":"report","report":{}} ')
            import time; time.sleep(100)
        def test_garbage():
            os.write(channel(), struct.pack(">I", 5) + b"[1,2]")
            import time; time.sleep(100)
        def test_after():
            pass
        """
    )
    result = run(contained)
    result.assert_outcomes(failed=3, passed=1)
    assert "sent something that is not a report" in result.stdout.str()


def test_exit_interrupt_and_internal_errors_end_the_run_as_they_do_in_plain_pytest(contained: pytest.Pytester) -> None:
    contained.makepyfile(
        test_exit="import pytest\ndef test_a(): pass\ndef test_b(): pytest.exit('enough', returncode=7)\ndef test_c(): pass",
        test_interrupt="def test_a(): raise KeyboardInterrupt",
        test_usage="import pytest\ndef test_a(): pass",
    )
    result = run(contained, "test_exit.py")
    assert result.ret == 7
    result.stdout.fnmatch_lines(["*Exit: enough*"])
    result.assert_outcomes(passed=1)
    assert run(contained, "test_interrupt.py").ret == 2
    assert run(contained, "test_usage.py", "-k", "nothing").ret == 5
    contained.makeconftest("def pytest_runtest_logstart(): raise RuntimeError('in a hook')")
    result = run(contained, "test_usage.py")
    assert result.ret == 3
    result.stdout.fnmatch_lines(["INTERNALERROR>*RuntimeError: in a hook*"])


def test_a_conftest_that_cannot_be_imported_is_a_usage_error(contained: pytest.Pytester) -> None:
    contained.makepyfile("def test_a(): pass")
    contained.makeconftest("import not_there_at_all")
    result = run(contained)
    assert result.ret == 4
    assert "ImportError while loading conftest" in result.stderr.str()
    assert "not_there_at_all" in result.stderr.str()


def test_exit_while_collecting_ends_the_run(contained: pytest.Pytester) -> None:
    contained.makepyfile("def test_a(): pass")
    contained.makeconftest("import pytest\ndef pytest_collection_modifyitems(): pytest.exit('no tests today', returncode=9)")
    result = run(contained)
    assert result.ret == 9
    assert "no tests today" in result.stdout.str()


def test_a_worker_that_dies_while_collecting_is_named(contained: pytest.Pytester) -> None:
    contained.makepyfile("import os\nprint('about to die')\nos.kill(os.getpid(), 9)")
    result = run(contained)
    assert result.ret == 3
    assert "ended while it collected the tests" in result.stdout.str() + result.stderr.str()


def test_a_lost_worker_fails_the_tests_that_ran_and_the_others_run_in_a_new_one(contained: pytest.Pytester) -> None:
    contained.makepyfile(
        """
        import os, time
        def test_before(): pass
        def test_kills_the_worker():
            os.kill(os.getppid(), 9)
            time.sleep(1)
        def test_after(): pass
        """
    )
    result = run(contained)
    result.assert_outcomes(passed=2, failed=1)
    assert "the worker of environment 'host' ended while tests ran. It was killed by signal 9" in result.stdout.str()


def test_a_worker_that_is_lost_again_ends_the_run(contained: pytest.Pytester) -> None:
    contained.makepyfile(
        """
        import os, time, pytest
        @pytest.mark.parametrize("n", range(3))
        def test_kills_the_worker(n):
            os.kill(os.getppid(), 9)
            time.sleep(1)
        """
    )
    result = run(contained)
    assert result.ret == 3
    assert "worker-lost" in result.stdout.str() + result.stderr.str()
