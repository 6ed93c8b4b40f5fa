"""Whatever a user gives a program, it ends with code 0, or with one sentence and code 2."""
from collections import Counter
from types import SimpleNamespace

import pytest
from bad_inputs import attempt, cases

SEED = 13


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.torture)])
def test_bad_inputs_are_a_sentence(count, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("common.main.run", lambda *_: None)  # the configuration is checked, and no more
    monkeypatch.setattr("common.launch.__main__.start", lambda *_, **__: 0)
    monkeypatch.setattr("common.launch.__main__.subprocess.run", lambda *_, **__: SimpleNamespace(returncode=0))
    monkeypatch.setattr("common.dataset.digits.write_digits", lambda folder: (folder, folder))
    (tmp_path / "weights.ckpt").write_bytes(b"weights")
    results = [(case, attempt(case, tmp_path)) for case in cases(count, SEED)]
    counts = Counter(result if result in ("accepted", "refused") else "lost" for _, result in results)
    with capsys.disabled():
        print(f"\nbad inputs: tried {count}, refused {counts['refused']}, accepted {counts['accepted']}, "
              f"lost {counts['lost']}")
    assert not counts["lost"], [(case, result) for case, result in results if result not in ("accepted", "refused")][:5]
    assert counts["refused"] > count / 3
