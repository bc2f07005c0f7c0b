"""What each kind of run computes: configuration in, result of its record out."""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch.nn import Module

from .. import data as datasets
from .. import scoring
from ..augment import augment, generator
from ..basics.files import write_atomically
from ..losses import objective
from ..models import build
from ..models.weights import as_safetensors
from ..quantizers import quantize
from ..scoring.racing import rank_within
from ..study import config
from ..study.config import Run, StudentRun, TeacherRun
from ..study.store import Store, weights_hash
from ..training import Task, fit, predictions

# The headline accuracy of schedules at least this long is the mean of their last five epochs. That
# of shorter ones is the last epoch's.
HEADLINE_EPOCHS = 100
Trained = TeacherRun | StudentRun
Result = dict[str, Any]


@lru_cache(maxsize=4)
def load_data(data: config.Data, device: str) -> datasets.Dataset:
    """The data set of a run on a device. The last few are kept."""
    images = datasets.load(data.name)
    if data.split == "choosing":
        images = datasets.choosing_images(images)
    images = datasets.subset(images, data.train, data.test, data.seed)
    return datasets.resized(images, data.size).to(device)


def load_network(run: Trained, store: Store, device: str) -> Module:
    """A trained teacher or student, from the committed weights or the cache, in eval mode.

    Raises FileNotFoundError if its weights are not there, ValueError if they are not those of its
    record.
    """
    path, record = store.weights(run), store.load(run)
    if not path.exists():
        folders = f"{store.cache} or {store.kept_weights(run).parent}"
        raise FileNotFoundError(f"no weights of the {run.label} ({run.key}) in {folders}")
    model = build(run.model, len(load_data(run.data, device).classes), run.seed)
    if isinstance(run, StudentRun):
        model = quantized(run, model)
    content = path.read_bytes()
    if record is None or weights_hash(content) != record["result"].get("weights_sha256"):
        raise ValueError(f"the weights in {path} are not those that {store.path(run)} names")
    model.load_state_dict(safetensors.torch.load(content))
    return model.to(device).eval()


def identity(runs: Sequence[Run], store: Store) -> str:
    """What a checkpoint of these runs belongs to: their keys, and the weights of their teachers."""
    keys = [run.key for run in runs]
    needed = (store.load(each)["result"] for run in runs for each in run.needs)
    return " ".join([*keys, *sorted({result["weights_sha256"] for result in needed})])


# ---------------------------------------------------------------------------------------- training


def start_teacher(run: TeacherRun, device: str) -> tuple[Module, Task]:
    """A teacher as it starts, and what it is to learn."""
    data, labels = load_data(run.data, device), objective("ce", smoothing=run.smoothing)
    network = build(run.model, len(data.classes), run.seed)
    return network, Task(data, run.augmentation, labels, run.recipe, run.seed)


def start_student(run: StudentRun, teacher: Module, device: str) -> tuple[Module, Task]:
    """A student as it starts, and what it is to learn."""
    data, loss = load_data(run.data, device), objective(run.loss, **run.loss_options)
    task = Task(data, run.augmentation, loss, run.recipe, run.seed, teacher)
    return quantized(run, teacher), task


def quantized(run: StudentRun, network: Module) -> Module:
    """A low-bit copy of a network, as a student's run says."""
    bits = run.weight_bits, run.activation_bits
    # First and last layers stay in full precision as in the paper, however much they hold.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return quantize(network, run.method, *bits, **run.method_options)


def trained(run: Trained, network: Module, task: Task, curve: list[dict], store: Store) -> Result:
    """The result of a training run. Writes its weights and its predictions on the test images."""
    weights = as_safetensors(network)
    write_atomically(store.weights(run), weights)
    classes, confidence = predictions(network, task.data, precision=run.recipe.precision)
    written = store.save_predictions(run, classes.cpu().numpy(), confidence.cpu().numpy())
    hashes = {"weights_sha256": weights_hash(weights), "predictions_sha256": written}
    return curve_result(curve) | hashes


def make_prediction(run: config.PredictionRun, store: Store, device: str) -> Result:
    """Accuracy of a trained network on the test images of `run.data`, its predictions kept."""
    network, data = load_network(run.network, store, device), load_data(run.data, device)
    classes, confidence = predictions(network, data, precision=run.network.recipe.precision)
    written = store.save_predictions(run, classes.cpu().numpy(), confidence.cpu().numpy())
    right = float((classes == data.test_labels).double().mean())
    return {"accuracy": 100 * right, "predictions_sha256": written}


def curve_result(curve: list[dict]) -> Result:
    """Accuracies of a training curve, in percent, and the curve."""
    accuracies = [row["test_accuracy"] for row in curve if "test_accuracy" in row]
    last_five = sum(accuracies[-5:]) / len(accuracies[-5:])
    return {
        "accuracy": last_five if len(curve) >= HEADLINE_EPOCHS else accuracies[-1],
        "accuracy_last": accuracies[-1],
        "accuracy_last5": last_five,
        "accuracy_best_on_test": max(accuracies),
        "curve": curve,
    }


def curve_seconds(curve: list[dict]) -> dict[str, float]:
    """Seconds of all epochs, also of those before an interruption and of a stage before the main
    one.
    """
    return {
        name: sum(row[name] + row.get(f"initial_{name}", 0.0) for row in curve)
        for name in ("seconds", "cpu_seconds")
    }


def reporter(run: Run, store: Store, epochs: int) -> Callable[[dict], None]:
    """A function that logs a row of the curve. Of a long schedule it logs about 20 epochs."""
    every = max(1, epochs // 20)

    def report(row: dict) -> None:
        loss, seconds = f"loss {row['loss']:.3g}", f"{row['seconds']:.1f} s"
        if "initial_epoch" in row:
            store.log(f"{run.name}: initial epoch {row['initial_epoch'] + 1}, {loss}, {seconds}")
            return
        epoch = row["epoch"] + 1
        if epoch % every == 0 or epoch == epochs:
            reached = f"{row['test_accuracy']:.2f} %" if "test_accuracy" in row else loss
            store.log(f"{run.name}: epoch {epoch}/{epochs}, {reached}, {seconds} an epoch")

    return report


def trained_alone(run: Trained, network: Module, task: Task, store: Store, **how: Any) -> Result:
    """The result of a run that trains one network, resumed from its checkpoint if there is one.

    how  further arguments of `fit`.
    """
    report = reporter(run, store, run.recipe.epochs)
    where, owner = store.checkpoint(run.key), identity([run], store)
    curve = fit(network, task, where, report, identity=owner, **how)
    return trained(run, network, task, curve, store)


def make_teacher(run: TeacherRun, store: Store, device: str) -> Result:
    """Train a teacher."""
    return trained_alone(run, *start_teacher(run, device), store)


def make_student(run: StudentRun, store: Store, device: str) -> Result:
    """Train a student."""
    teacher = load_network(run.teacher, store, device)
    return trained_alone(run, *start_student(run, teacher, device), store)


# ----------------------------------------------------------------------------------------- scoring


def _teacher_and_data(
    run: config.CandidatesRun, store: Store, device: str
) -> tuple[Module, datasets.Dataset]:
    return load_network(run.teacher, store, device), load_data(run.data, device)


def _progress(run: Run, store: Store) -> Callable[[int, int, str], None]:
    return lambda done, total, name: store.log(f"{run.name}: {done}/{total} {name}")


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A table as JSON: a dict a row, None for NaN."""
    return [{k: None if v != v else v for k, v in row.items()} for row in table.to_dict("records")]


def make_score(run: config.ScoreRun, store: Store, device: str) -> Result:
    """Score every candidate with the teacher."""
    # What `rank` warns of is in the tables.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        table = scoring.rank(
            *_teacher_and_data(run, store, device),
            run.augmentations,
            seed=run.seed,
            batch=run.batch,
            stddev_group=run.stddev_group,
            replicates=run.replicates,
            precision=run.precision,
            progress=_progress(run, store),
        )
    return {"scores": _rows(table)}


def make_ablation(run: config.AblationRun, store: Store, device: str) -> Result:
    """Score every candidate at several temperatures and numbers of images."""
    table = scoring.ablate(
        *_teacher_and_data(run, store, device),
        run.augmentations,
        run.temperatures,
        run.counts,
        seed=run.seed,
        batch=run.batch,
        progress=_progress(run, store),
    )
    return {"rows": _rows(table)}


def make_budget(run: config.BudgetRun, store: Store, device: str) -> Result:
    """Race the candidates for as many forward passes as the budget allows."""
    table = rank_within(
        *_teacher_and_data(run, store, device),
        run.augmentations,
        budget=run.budget,
        top=run.top,
        confidence=run.confidence,
        seed=run.seed,
    )
    return {"scores": _rows(table), **table.attrs}


def make_held_out(run: config.HeldOutRun, store: Store, device: str) -> Result:
    """Score every candidate on held-out images, and with the teacher calibrated by them."""
    teacher, data = _teacher_and_data(run, store, device)
    held_out = load_data(run.held_out, device)
    batches = held_out.train_images.split(run.batch)
    plain = torch.cat([scoring.logits_of(teacher, held_out, images) for images in batches])
    temperature = scoring.calibrating_temperature(plain, held_out.train_labels)
    rows, progress = [], _progress(run, store)
    for done, name in enumerate(run.augmentations):
        progress(done, len(run.augmentations), name)
        logits, targets = scoring.predict(teacher, data, name, run.seed, run.batch)
        views = scoring.predict_views(teacher, held_out, name, run.views, run.seed, run.batch)
        row = {"augmentation": name}
        for way, found in {
            "calibrated": scoring.score(logits / temperature, targets),
            "held_out": scoring.score(*views),
        }.items():
            for column in ("score", "cmi", "divergence"):
                row[f"{way}_{column}"] = getattr(found, column)
        rows.append(row)
    return {"temperature": temperature, "scores": rows}


def make_walk(run: config.WalkRun, store: Store, device: str) -> Result:
    """Train the teacher as its own run does, and score every candidate after some of its epochs."""
    teacher, data = run.teacher, load_data(run.data, device)
    network, task = start_teacher(teacher, device)

    def scores(name: str) -> Result:
        precision = teacher.recipe.precision
        views = scoring.predict_views(
            network, data, name, run.views, run.seed, run.batch, precision
        )
        return {"augmentation": name, **scoring.evaluate(*views, 1.0, 0, run.seed)}

    def look(epochs: int) -> Result:
        if epochs not in run.epochs:
            return {}
        store.log(f"{run.name}: scoring after epoch {epochs}")
        return {"scores": [scores(name) for name in run.augmentations]}

    report = reporter(run, store, teacher.recipe.epochs)
    curve = fit(network, task, store.checkpoint(run.key), report, look, identity([run], store))
    found = [(row["epoch"] + 1, row.pop("scores")) for row in curve if "scores" in row]
    return curve_result(curve) | {
        "weights_sha256": weights_hash(as_safetensors(network)),
        "steps": [{"epoch": epochs, "scores": rows} for epochs, rows in found],
    }


def make_tour(run: config.TourRun, store: Store, device: str) -> Result:
    """One image under every candidate: the view, its soft label, the prediction, the centroids."""
    teacher, data = _teacher_and_data(run, store, device)
    views = {}
    for name in run.augmentations:
        logits, targets = scoring.predict(teacher, data, name, run.seed, run.batch)
        centroids = scoring.class_centroids(logits.double().softmax(1), targets)
        image, label = tour_view(data, run, name)
        with torch.no_grad():
            prediction = teacher(data.normalise(image.unsqueeze(0))).double().softmax(1)[0]
        tensors = {"prediction": prediction, "target": label, "centroids": centroids}
        views[name] = {part: tensor.tolist() for part, tensor in tensors.items()}
    return {"views": views}


def tour_view(
    data: datasets.Dataset, run: config.TourRun, augmentation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tour's image under one augmentation, (3, H, W) uint8, and its soft label (C,).

    Its CutMix partner is the image before it in the data set. The image keeps its place and is not
    mirrored, so that the sixteen pictures can be compared.
    """
    pair = torch.tensor([run.image - 1, run.image], device=data.train_images.device)
    views, targets = augment(
        data.train_images[pair],
        data.train_labels[pair],
        augmentation,
        generator(run.seed, run.image),
        len(data.classes),
        mirror=False,
        padding=0,
    )
    if not targets.is_floating_point():
        targets = torch.nn.functional.one_hot(targets, len(data.classes)).float()
    return views[1], targets[1]
