"""What a test says that wants another library: left out where there is none, failed where it is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers import peer


def test_a_library_that_is_not_installed_leaves_the_test_out():
    with pytest.raises(pytest.skip.Exception, match=r"needs no_such_library\.part, which `make peers` installs"):
        peer("no_such_library.part")


@pytest.mark.parametrize("line", ["import no_such_library", "raise RuntimeError('another torch')"])
def test_a_library_that_is_broken_fails_the_test(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_library.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ImportError, RuntimeError), match=r"no_such_library|another torch"):
        peer("broken_library")
