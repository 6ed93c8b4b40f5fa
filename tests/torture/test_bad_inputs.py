"""Whatever a user gives a program, it ends with code 0, or with one sentence and code 2."""
from collections import Counter
from types import SimpleNamespace

import pytest
from bad_inputs import attempt, cases

SEED = 13


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.torture)])
def test_bad_inputs_are_a_sentence(count, tmp_path, monkeypatch, counts):
    monkeypatch.setattr("common.main.run", lambda *_: None)  # the configuration is checked, and no more
    monkeypatch.setattr("common.launch.__main__.start", lambda *_, **__: 0)
    monkeypatch.setattr("common.launch.__main__.subprocess.run", lambda *_, **__: SimpleNamespace(returncode=0))
    monkeypatch.setattr("common.dataset.digits.write_digits", lambda folder: (folder, folder))
    (tmp_path / "weights.ckpt").write_bytes(b"weights")
    results = [(case, attempt(case, tmp_path)) for case in cases(count, SEED)]
    found = Counter(result if result in ("accepted", "refused") else "lost" for _, result in results)
    counts(f"bad inputs: tried {count}, refused {found['refused']}, accepted {found['accepted']}, lost {found['lost']}")
    assert not found["lost"], [(case, result) for case, result in results if result not in ("accepted", "refused")][:5]
    assert found["refused"] > count / 3
