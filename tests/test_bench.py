"""What the benchmark reports follows from its rounds; the baseline it is compared with computes the
same things.

No speed is asserted anywhere.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import baseline, levers, measure, render, scaling, store, workers
from bench.__main__ import main
from bench.machine import Setting, effort, noise
from bench.measure import Contender, Row
from paperlib import data, scoring
from paperlib.augment import candidates
from paperlib.models import build
from paperlib.quantizers import quantize

ROOT = Path(__file__).parent.parent
DIGITS = data.subset(data.load("digits"), train=600, test=50)


@pytest.fixture(autouse=True)
def _one_thread():
    """Spawned processes beside this one get a core, and `main` may set what it likes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------------------------------- measuring


class Clock:
    """A clock that contenders move on, on a machine whose speed changes from round to round."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def contender(self, name: str, seconds: list[float], work: float) -> Contender:
        left = iter(seconds)

        def run() -> None:
            self.log.append(name)
            self.now += next(left)

        return Contender(name, run, work)


def test_contenders_take_turns_and_the_warm_up_does_not_count():
    clock = Clock()
    contenders = [clock.contender("a", [99, 1, 2, 4], 8), clock.contender("b", [99, 2, 4, 8], 8)]
    rates = measure.interleave(contenders, 3, clock=lambda: clock.now)
    assert rates == {"a": (8, 4, 2), "b": (4, 2, 1)}
    assert clock.log == ["a", "b", "b", "a", "a", "b", "b", "a"], "every round another one begins"
    assert measure.ratios(rates["a"], rates["b"]) == (2, 2, 2), (
        "a drift that both meet leaves their ratio alone"
    )


def test_the_device_is_waited_for_before_each_reading_of_the_clock():
    events = []
    measure.interleave(
        [Contender("a", lambda: events.append("run"), 1)],
        1,
        synchronise=lambda: events.append("wait"),
        clock=lambda: events.append("clock") or float(len(events)),
    )
    assert events == ["wait", "clock", "run", "wait", "clock"] * 2


def test_a_rate_of_parts_is_what_a_stop_watch_would_show():
    """100 images: three times 10 s and once 5 s in the first round, three times 5 s and once 10 s
    in the second.
    """
    assert measure.combine([(3, (10.0, 20.0)), (1, (20.0, 10.0))]) == pytest.approx(
        (100 / 35, 100 / 25)
    )


def test_the_median_ratio_is_not_the_ratio_of_medians():
    a, b = (1.0, 10.0, 4.0), (1.0, 2.0, 8.0)
    assert measure.ratios(a, b) == (1.0, 0.5, 5.0)
    assert measure.spread(a)[0] / measure.spread(b)[0] == 2.0


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7])
def test_an_exponent_is_found_again_whatever_the_unit(power):
    sizes = [10, 30, 100, 1000]
    assert measure.exponent(sizes, [7.5 * n**power for n in sizes]) == pytest.approx(
        power, abs=1e-9
    )


@pytest.mark.parametrize(
    "wrong, text",
    [
        (lambda: Row("x", "rival", (1.0,)), "rival"),
        (lambda: Row("x", "ours", (1.0, 0.0)), "0.0"),
        (lambda: measure.interleave([], 0), "got 0"),
        (lambda: measure.interleave([Contender("a", int, 1)] * 2, 1), "'a', 'a'"),
        (lambda: measure.ratios((1.0,), (1.0, 2.0)), "1 rounds"),
        (lambda: measure.exponent([1], [1]), "two or more"),
        (lambda: Setting("tpu"), "tpu"),
        (lambda: Setting("cuda:99"), "cuda:99"),
        (lambda: Setting(repetitions=0), "got 0"),
        (lambda: workers.Group(0, int), "got 0"),
    ],
)
def test_errors_name_what_is_wrong(wrong, text):
    with pytest.raises(ValueError, match=text):
        wrong()


def test_flops_and_bytes_of_a_layer_are_those_of_pencil_and_paper():
    layer, x = torch.nn.Linear(30, 20, bias=False), torch.randn(10, 30)
    gflop, gb = effort(lambda: layer(x))
    assert gflop * 1e9 == pytest.approx(2 * 10 * 30 * 20)
    assert gb * 1e9 == pytest.approx(4 * (10 * 30 + 30 * 20 + 10 * 20))


# ------------------------------------------------------------------------------------------ results

WHERE = {
    "device": "Abacus (R) 3",
    "threads": 2,
    "cores": 2,
    "torch": "2.0",
    "python": "3.11",
    "commit": "0123456789abcdef+",
    "finished": "2030-01-01T00:00:00+00:00",
    "repetitions": 3,
    "small": False,
}
ROWS = [
    Row("bare", "limit", (200.0, 400.0, 300.0)),
    Row("plain", "baseline", (10.0, 20.0, 10.0)),
    Row(
        "our pass",
        "ours",
        (100.0, 160.0, 300.0),
        baseline="plain",
        limit="bare",
        target="limit <= 1.25",
        headline=True,
    ),
]
SCORING = {
    "rows": [row.to_json() for row in ROWS],
    "settings": {"images": 1000},
    "memory": [{"name": "our ranking", "images": 2000, "host_bytes": 5e6, "device_bytes": 0}],
}
SCALING = {
    "settings": {},
    "curves": [
        {
            "name": "images",
            "what": "N images",
            "sizes": [1, 10, 100],
            "seconds": [[1, 1, 2], [10, 9, 12], [100, 90, 120]],
            "memory": [1e6, 1e6, 1e6],
        }
    ],
}


def test_table_and_pictures_come_from_the_file_alone(tmp_path):
    path = store.merge(tmp_path, WHERE, "scoring", SCORING)
    store.merge(tmp_path, WHERE, "scaling", SCALING)
    assert path.name == "abacus-r-3-2.json"
    assert [p.name for p in render.write(tmp_path)] == ["README.md", "bench.png", "scaling.png"]
    text = (tmp_path / "README.md").read_text()
    # 160 / 20 = 8 is the median of 10, 8, 30 ... in order 8, 10, 30; of the limit's 2, 2.5, 1 it is
    # 2
    line = (
        "| our pass | 160 (100 to 300) | images/s | 10.0 (8.00 to 30.0) | 2.00 (1.00 to "
        "2.50) | limit <= 1.25 |"
    )
    assert text.count(line) == 2, "in short, and in its suite"
    assert "| 1.00, 10.0, 100 | 1.00 | 1.00, 1.00, 1.00 | 0.00 |" in text, (
        "linear in time, constant in memory"
    )
    assert "commit `0123456789ab+`" in text and "| our ranking | 2,000 | 5.00 | 0.00 |" in text
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("bench.png", "scaling.png"))


def test_one_suite_replaces_itself_alone(tmp_path):
    store.merge(tmp_path, WHERE, "scaling", SCALING)
    store.merge(tmp_path, WHERE, "scoring", SCORING)
    path = store.merge(
        tmp_path, WHERE | {"commit": "fedcba"}, "scoring", SCORING | {"rows": SCORING["rows"][:1]}
    )
    content = store.read(path)
    assert list(content["suites"]) == ["scoring", "scaling"]
    assert len(content["suites"]["scoring"]["rows"]) == 1
    assert [s["environment"]["commit"] for s in content["suites"].values()] == [
        "fedcba",
        WHERE["commit"],
    ]
    other = store.merge(tmp_path, WHERE | {"threads": 1}, "scaling", SCALING)
    assert other != path and len(store.read_all(tmp_path)) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 0, "suites": {}}', '{"schema": 1, "suites": {"speed": {}}}']
)
def test_a_file_that_holds_no_results_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="x.json holds no results"):
        render.write(tmp_path)


def test_a_suite_without_a_picture_is_rendered(tmp_path):
    store.merge(tmp_path, WHERE, "losses", {"rows": [ROWS[0].to_json()], "settings": {}})
    assert [path.name for path in render.write(tmp_path)] == ["README.md"]


def test_a_row_compared_with_nothing_is_refused():
    with pytest.raises(ValueError, match="'bare'"):
        render.rows_of({"rows": [ROWS[2].to_json(), ROWS[1].to_json()]})


def test_rendering_needs_no_torch(tmp_path):
    store.merge(tmp_path, WHERE, "scoring", SCORING)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from bench.__main__ import main; sys.exit(main(['render', '--output', "
        f"{str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench.png").exists()


# ------------------------------------------------------------------------------------------ workers


def remember(start: int):
    """For a spawned process: holds `add` megabytes for a moment."""

    def call(add: int) -> int:
        if add < 0:
            raise ArithmeticError(f"cannot add {add}")
        return start + len(bytearray(add * 2**20))

    return call


def test_a_group_answers_together_measures_memory_and_passes_errors_on():
    with workers.Group(2, remember, (5,)) as group:
        small = group(add=1)
        assert [a.value for a in small] == [5 + 2**20] * 2
        (large,) = group(1, add=200)
        assert large.host_bytes - small[0].host_bytes == pytest.approx(199 * 2**20, rel=0.05)
        with pytest.raises(workers.WorkerError, match="ArithmeticError: cannot add -1"):
            group(add=-1)
    assert not any(process.is_alive() for process in group.processes)


# ----------------------------------------------------------------------------------------- baseline


def test_the_baselines_layer_is_ours_in_value_and_gradient():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3, bias=False), torch.nn.Conv2d(5, 2, 3)
    )
    ours, plain = quantize(network, "ewgs", 2, 2)[1], baseline.plain_student(network, 2)[1]
    bounds = torch.tensor([-0.31, 0.27, 0.12, 1.4])
    with torch.no_grad():
        for theirs, value in zip(plain.bounds, bounds, strict=True):
            theirs.copy_(value)
        q_w, q_x = ours.weight_quantizer, ours.activation_quantizer
        for own, value in zip((q_w.lower, q_w.upper, q_x.lower, q_x.upper), bounds, strict=True):
            own.copy_(value)
        ours.output_scale.fill_(0.7)
        plain.scale.fill_(0.7)
    ours.ready = plain.ready = True
    x = torch.rand(6, 4, 8, 8) * 2
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(leaf) for layer, leaf in zip((ours, plain), inputs, strict=True)]
    torch.testing.assert_close(outputs[0], outputs[1])
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    for own, theirs in zip((q_w.lower, q_w.upper, q_x.lower, q_x.upper), plain.bounds, strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.output_scale.grad, plain.scale.grad, rtol=1e-4, atol=1e-4)


def test_the_baselines_score_is_ours_on_the_same_predictions(monkeypatch):
    """Every one of its passes is given the same stored predictions: then one pass and two are the
    same thing.
    """
    torch.manual_seed(0)
    logits, labels = torch.randn(600, 10, dtype=torch.float64), torch.arange(600) % 10
    targets = torch.nn.functional.one_hot(labels, 10).double()
    stored = [
        (p, t.float())
        for p, t in zip(logits.softmax(1).float().split(100), targets.split(100), strict=True)
    ]
    monkeypatch.setattr(baseline, "predictions", lambda *args: iter(stored))
    found = baseline.score(torch.nn.Linear(1, 1), DIGITS, "none", 0, group=3)
    expected = scoring.score(logits, labels)
    for name in ("score", "cmi", "divergence"):
        assert found[name] == pytest.approx(getattr(expected, name), abs=1e-5)


@pytest.mark.parametrize("augmentation", ["none", "erasing+cutmix"])
def test_the_baselines_score_of_a_network_is_ours_within_sampling(augmentation, monkeypatch):
    """Its views are other draws, and its centroids come from another pass: equal but for that."""
    monkeypatch.setattr(baseline, "STDDEV_PASSES", 1)
    teacher = build("resnet8", 10, seed=3).eval()
    found = baseline.score(teacher, DIGITS, augmentation, 0, group=2)
    ours = scoring.rank(teacher, DIGITS, [augmentation], replicates=0, stddev_group=200).iloc[0]
    assert found["divergence"] == pytest.approx(ours["divergence"], rel=0.05)
    assert found["cmi"] == pytest.approx(ours["cmi"], rel=0.25, abs=0.02)
    assert math.isfinite(found["teacher_stddev"])


def test_the_baselines_loop_trains():
    small = data.subset(DIGITS, train=128)
    teacher = build("resnet8", 10)
    student = baseline.plain_student(teacher, 2)
    before = student.stages[0][0].conv1.weight.clone()
    assert math.isfinite(
        baseline.train_epoch(
            teacher, student, baseline.loader(small, "randaugment", 64, 0, True), 10, True
        )
    )
    assert not torch.equal(before, student.stages[0][0].conv1.weight)


# --------------------------------------------------------------------------------------- whole runs


def test_a_small_run_writes_a_file_that_renders(tmp_path, capsys):
    assert (
        main(["many", "--small", "--repetitions", "1", "--threads", "1", "--output", str(tmp_path)])
        == 0
    )
    (path,) = tmp_path.glob("*.json")
    suite = json.loads(path.read_text())["suites"]["many"]
    assert suite["environment"]["small"] and {
        "device",
        "threads",
        "torch",
        "python",
        "commit",
    } < set(suite["environment"])
    rows = render.rows_of(suite)
    assert {row.role for row in rows.values()} == {"ours", "baseline", "limit"}
    assert all(len(row.rounds) == 1 for row in rows.values())
    assert "no measurement" in (tmp_path / "README.md").read_text()
    assert "round 1 of 1" in capsys.readouterr().out


def test_the_command_line_refuses_what_it_does_not_know(tmp_path, capsys):
    for arguments, text in (
        (["speed"], "unknown suite 'speed'"),
        (["many", "--device", "tpu"], "tpu"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--output", str(tmp_path)])
        assert text in capsys.readouterr().err + str(stopped.value)


def test_noise_has_every_class():
    assert noise(25, 10).train_labels.bincount().tolist() == [3] * 5 + [2] * 5


def test_every_lever_is_measured_on_a_machine_of_today():
    """The rows that the levers name are those that the suites write."""
    (file,) = (f for f in store.read_all(ROOT / "results/bench") if "Intel" in f["device"])
    rows = {name: render.rows_of(suite) for name, suite in file["suites"].items()}
    assert [lever for lever, _ in levers.brought(rows)] == list(levers.LEVERS)


def test_names_of_the_curve_of_augmentations_differ(monkeypatch):
    """At the greatest number too, which a small run does not have."""
    wanted = []
    monkeypatch.setattr(
        scaling.scoring, "rank", lambda teacher, data, names, **_: wanted.append(names)
    )
    scaling.prepare_augmentations(Setting("cpu", 1, 1, True), 16)()
    assert len(candidates(wanted[0])) == 16
