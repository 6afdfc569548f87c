"""What is said of a shortage of the machine: the words of the kernel, and what to do."""

import errno
import os
import signal

import pytest

from istio_hostagent import errors


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EROFS, "mount -o remount,rw"),
        (errno.ENOSPC, "df -h"),
        (errno.EMFILE, "LimitNOFILE="),
        (errno.ENFILE, "fs.file-max"),
        (errno.ENOMEM, "free -m"),
        (errno.EAGAIN, "TasksMax="),
        (errno.EIO, "dmesg"),
    ],
)
def test_a_shortage_is_named_with_what_mends_it(number: int, mend: str) -> None:
    text = errors.describe(OSError(number, os.strerror(number)))
    assert text.startswith(os.strerror(number))
    assert mend in text
    assert number in errors.SHORTAGES


def test_what_is_no_shortage_gets_no_advice() -> None:
    assert errors.describe(FileNotFoundError(errno.ENOENT, "gone")) == os.strerror(errno.ENOENT)
    assert errors.find_remedy(1, "KeyError: 'x'") == ""
    assert errors.find_remedy(1, "Didn't find a registered extension: Error 1234") == ""
    assert errors.find_remedy(-signal.SIGTERM, "") == ""


@pytest.mark.parametrize(
    ("status", "said", "mend"),
    [
        (-signal.SIGKILL, "", "grep -i oom"),
        (-signal.SIGSEGV, "", "coredumpctl"),
        (-signal.SIGABRT, "terminate called: std::bad_alloc, out of memory", "free -m"),
        (1, "setpriv: failed to execute: Resource temporarily unavailable", "TasksMax="),
        (2, "/bin/sh: 0: Cannot fork", "TasksMax="),
        (1, "OSError: [Errno 24] Too many open files: '/etc/x'", "LimitNOFILE="),
        (
            1,
            "unable to add filesystem watch for file /run/x: No space left on device",
            "fs.inotify.max_user_watches",
        ),
        (1, "cannot bind '[::]:15021': Address already in use", "ss -tanp"),
        (-signal.SIGABRT, "assert failure: inotify_fd_ >= 0.", "fs.inotify.max_user_instances"),
    ],
)
def test_last_words_of_a_process_lead_to_what_mends_it(status: int, said: str, mend: str) -> None:
    assert mend in errors.find_remedy(status, said)
