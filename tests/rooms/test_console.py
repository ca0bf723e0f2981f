"""What the person at the terminal sees while something runs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator

import pytest

from gracile.core.console import muted, show_progress, show_warnings, told
from gracile.core.errors import DataError


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    logger = logging.getLogger("gracile")
    handlers, level = list(logger.handlers), logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_told_lines_and_warnings_are_shown_and_the_log_is_not(capsys) -> None:
    show_progress()
    told.info("exporting")
    logging.getLogger("gracile").info("for the log file")
    logging.getLogger("gracile").warning("a channel is gone")
    logging.getLogger("gracile").error("printed once, by the command line")
    assert capsys.readouterr().err == "exporting\nWARNING: a channel is gone\n"


def test_quiet_leaves_warnings(capsys) -> None:
    show_progress(quiet=True)
    told.info("exporting")
    told.warning("the run can be continued")
    assert capsys.readouterr().err == "WARNING: the run can be continued\n"


def test_a_second_call_takes_the_place_of_the_first(capsys) -> None:
    show_progress()
    show_progress(worded=str.upper)
    logging.getLogger("gracile").warning("once")
    assert capsys.readouterr().err == "WARNING: ONCE\n"


def test_a_python_warning_is_one_line_without_its_place(capsys) -> None:
    show_progress()
    show_warnings()
    warnings.warn("lam is large", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "WARNING: lam is large\n"


def test_what_is_muted_is_not_shown_and_all_else_is(capsys) -> None:
    show_progress()
    with muted():
        logging.getLogger("gracile").warning("said again later")
    with muted(silent=False):
        logging.getLogger("gracile").warning("said here")
    logging.getLogger("gracile").warning("said after")
    assert capsys.readouterr().err == "WARNING: said here\nWARNING: said after\n"


def test_a_message_is_one_line_of_bounded_length_whatever_it_quotes() -> None:
    error = DataError("The label 'x\ny\x1b[31m' is none.", "Mend it.")
    assert str(error) == r"The label 'x\ny\x1b[31m' is none. Mend it."
    long = str(DataError(f"The label '{'x' * 10**6}' is none.", "Mend it."))
    assert len(long) < 2000
    assert long.endswith("x' is none. Mend it.")
    assert "Ä 名前 µ" in str(DataError("Ä 名前 µ", "Mend it."))
