"""Evaluate a checkpoint: a story from top to bottom."""
from dataclasses import replace
from typing import Callable, Sequence

from mindspore import nn

from common.config.datasets import DATASETS, ImageNetTest
from common.config.options import Config
from common.context.device import start
from common.context.ranks import Runtime
from common.dataset.batches import eval_batches
from common.dataset.classes import with_classes
from common.dataset.imagenet_tests import outputs_of, real_accuracy, real_sets
from common.dataset.samples import Samples
from common.dataset.sources import open_samples
from common.engine import open_network
from common.files import make_folder
from common.metric import Answers, Scores, evaluate_batches
from common.network import compiled_as_wanted
from common.pictures.report import FILES as REPORT_FILES, write_report
from common.run.training import open_console
from common.spec import ModelSpec


def evaluate(config: Config, spec: ModelSpec, runtime: Runtime | None = None) -> Scores:
    """Evaluate the checkpoint ``config.ckpt_path`` on the evaluation data; exact for any batch size and rank count."""
    runtime = runtime or start(config)
    logger = open_console(config, spec, runtime)
    samples = open_samples(config, "eval")
    is_test = isinstance(DATASETS[config.dataset], ImageNetTest)
    config = config if is_test else with_classes(config, samples)
    folder = make_folder("report", config.report) if config.report else None
    opened = open_network(config, spec, runtime)
    classes = opened.classes
    for line in (f"{spec.name_of(vars(config))} from {config.ckpt_path}", *opened.loaded,
                 f"{len(samples)} images of {len(samples.classes)} classes", f"{opened.engine} answers"):
        logger.info(line)
    if folder:
        logger.info(f"{', '.join(REPORT_FILES)} go to {folder}")
    outputs = outputs_of(config.dataset, samples, classes, config.num_classes)
    if outputs is None and classes and classes != samples.classes:
        logger.warning(f"The checkpoint was trained on classes named {classes[0]}, {classes[1]} ..., and the data has "
                       f"{samples.classes[0]}, {samples.classes[1]} ...: the numbers mean something only if both lists "
                       "are in the same order.")
    real = real_sets(samples) if is_test and DATASETS[config.dataset].relabelled else None
    answers = (Answers(samples, config.eval_batch_size or config.batch_size, runtime)
               if folder or real is not None else None)
    scores = evaluation(config, samples, opened.network, runtime, answers, outputs)()
    samples.report_errors(logger)
    if scores.top1 * len(samples.classes) < 2 and scores.seen >= 10 * len(samples.classes) > 20:
        logger.warning("The accuracy is that of a guess. The classes may be numbered differently from the training: "
                       "folders are numbered in alphabetical order.")
    lines = spec.log_style.evaluation.format(
        top1=scores.top1, top5=scores.top5, loss=scores.loss, seen=scores.seen, total_time=scores.seconds,
        step_time=scores.seconds / max(1, scores.steps))
    if answers is not None:
        answers.gather()
    if real is not None:
        share, labelled = real_accuracy(real, answers.predicted, samples.classes)
        scores = replace(scores, real=share)
        lines += f"\nby the labels of ReaL: top-1 {share:.6f} of {labelled} images"
    if runtime.is_main:
        print(lines)
        if folder is not None:
            write_report(answers, folder)
    return scores


def evaluate_all(configs: Sequence[Config], spec: ModelSpec) -> list[Scores]:
    """Evaluate several checkpoints one after the other, and print a table of them, in the order in which they came."""
    runtime = start(configs[0])
    found = [evaluate(config, spec, runtime) for config in configs]
    if runtime.is_main:
        print(comparison([config.ckpt_path for config in configs], found))
    return found


def comparison(names: Sequence[str], found: Sequence[Scores]) -> str:
    """Return the scores of several checkpoints as a table; the best top-1 has a star."""
    columns = {"top-1": "top1", "top-5": "top5", "ReaL": "real", "loss": "loss", "images": "seen"}
    columns = {head: name for head, name in columns.items() if getattr(found[0], name) is not None}
    best = max(scores.top1 for scores in found)
    width = max(len("checkpoint"), *map(len, names))
    lines = [f"  {'checkpoint':<{width}}" + "".join(f"{head:>10}" for head in columns)]
    for name, scores in zip(names, found):
        values = [getattr(scores, column) for column in columns.values()]
        lines.append(f"{'* ' if scores.top1 == best else '  '}{name:<{width}}"
                     + "".join(f"{value:>10}" if isinstance(value, int) else f"{value:>10.6f}" for value in values))
    return "\n".join(lines)


def evaluation(config: Config, samples: Samples, network: Callable, runtime: Runtime, answers: Answers | None = None,
               outputs: Sequence[int] | None = None) -> Callable[..., Scores]:
    """Return a function that evaluates the network on the evaluation data, and collects its answers if asked to.

    It takes, if wanted, what is to be called before every batch.
    """
    batches = eval_batches(config, samples, rank=runtime.rank, world_size=runtime.world_size)
    if isinstance(network, nn.Cell):
        network = compiled_as_wanted(network, config, runtime)
    return lambda before_batch=None: evaluate_batches(network, batches, runtime, answers and answers.collect,
                                                      before_batch, outputs)
