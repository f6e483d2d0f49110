import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_compiled_rewards_are_faster_than_loops_and_scale_with_the_pairs(capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location(
        "rewards_benchmark", ROOT / "benchmarks/rewards.py"
    )
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    words = "rewards.py --images 12 48 --answers 6 --repeats 10".split()
    monkeypatch.setattr("sys.argv", words)
    benchmark.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    names = ["combine", "completion_ranking", "frank", "thurstone_fidelity"]
    assert sorted({row[0] for row in rows}) == names
    times = {(name, int(number)): (float(a), float(b)) for name, number, a, b in rows}
    for name in names:
        compiled, loop = times[name, 48]
        assert compiled < loop  # by two orders of magnitude on a quiet machine
        assert compiled < 60 * times[name, 12][0] + 1  # 16 times the pairs
