"""The log of a job elsewhere: once, whatever the connection does; and its last error."""

import io

from components.job_log import JobLog


def test_what_is_read_again_is_not_shown_again():
    stream = io.StringIO()
    log = JobLog(stream)
    for piece in ("one\ntw", "o\n"):
        log.write(piece)
    log.restart()
    for piece in ("on", "e\ntwo\nthree\n"):
        log.write(piece)
    log.restart()
    log.write("one\n")
    assert stream.getvalue() == "one\ntwo\nthree\n"


def test_the_last_error_with_its_details_and_nothing_after():
    log = JobLog(io.StringIO())
    log.write(
        "Error: first\nmore\nError: data.source: no such file\n  a: 1\n  b: 2\nRay says bye\n"
    )
    assert log.last_error() == "data.source: no such file\n  a: 1\n  b: 2"


def test_no_error_is_none():
    log = JobLog(io.StringIO())
    log.write("all well, no Error: here\n")
    assert log.last_error() is None


def test_an_error_without_a_last_newline():
    log = JobLog(io.StringIO())
    log.write("Error: cut")
    assert log.last_error() == "cut"
