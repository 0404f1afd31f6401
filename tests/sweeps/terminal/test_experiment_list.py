"""The list of experiments that a command without one prints."""

import sys

import pytest

from sweeps.run import main


def test_experiments_are_listed_with_the_first_sentence_of_their_comment(tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "mine" / "exp"
    folder.mkdir(parents=True)
    (folder / "long.yaml").write_text(
        "# @package _global_\n# A net, told over\n# two lines. More of it.\n# python -m sweeps.run +exp=long\nname: x\n"
    )
    (folder / "bare.yaml").write_text("# @package _global_\nname: y\n")
    (folder / "short.yaml").write_text("# @package _global_\n\n# No full stop\n#\n# Apart\nname: z\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweeps.run", "--config-dir", "mine"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "long  A net, told over two lines." in lines
    assert "short  No full stop" in lines
    assert "bare" in lines
    assert "python -m sweeps.run --config-dir mine +exp=long" in lines
    assert any(line.startswith("quickstart  Handwritten digits") for line in lines)
