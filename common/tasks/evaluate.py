"""Evaluate a checkpoint: a story from top to bottom."""
from typing import Callable

from mindspore import nn

from common.config.options import Config
from common.context.device import start
from common.context.ranks import Runtime
from common.dataset.batches import eval_batches
from common.dataset.classes import with_classes
from common.dataset.samples import Samples
from common.dataset.sources import open_samples
from common.files import make_folder
from common.metric import AnsweringStep, Answers, EvaluationStep, Scores, evaluate_batches
from common.network import load_network
from common.pictures.report import FILES as REPORT_FILES, write_report
from common.run.training import open_console
from common.spec import ModelSpec


def evaluate(config: Config, spec: ModelSpec) -> Scores:
    """Evaluate the checkpoint ``config.ckpt_path`` on the evaluation data; exact for any batch size and rank count."""
    runtime = start(config)
    logger = open_console(config, spec, runtime)
    samples = open_samples(config, "eval")
    config = with_classes(config, samples)
    folder = make_folder("report", config.report) if config.report else None
    network, report, classes = load_network(config, spec)
    logger.info(f"{spec.name_of(vars(config))} from {config.ckpt_path}: {report.summary()}")
    logger.info(f"{len(samples)} images of {len(samples.classes)} classes")
    if folder:
        logger.info(f"{', '.join(REPORT_FILES)} go to {folder}")
    if classes and classes != samples.classes:
        logger.warning(f"The checkpoint was trained on classes named {classes[0]}, {classes[1]} ..., and the data has "
                       f"{samples.classes[0]}, {samples.classes[1]} ...: the numbers mean something only if both lists "
                       "are in the same order.")
    answers = Answers(samples, config.eval_batch_size or config.batch_size, runtime) if folder else None
    scores = evaluation(config, samples, network, runtime, answers)()
    samples.report_errors(logger)
    if scores.top1 * len(samples.classes) < 2 and scores.seen >= 10 * len(samples.classes) > 20:
        logger.warning("The accuracy is that of a guess. The classes may be numbered differently from the training: "
                       "folders are numbered in alphabetical order.")
    lines = spec.log_style.evaluation.format(
        top1=scores.top1, top5=scores.top5, loss=scores.loss, seen=scores.seen, total_time=scores.seconds,
        step_time=scores.seconds / max(1, scores.steps))
    if runtime.is_main:
        print(lines)
    if answers is not None:
        answers.gather()
        if runtime.is_main:
            write_report(answers, folder)
    return scores


def evaluation(config: Config, samples: Samples, network: nn.Cell, runtime: Runtime, answers: Answers | None = None
               ) -> Callable[..., Scores]:
    """Return a function that evaluates the network on the evaluation data, and collects its answers if asked to.

    It takes, if wanted, what is to be called before every batch.
    """
    batches = eval_batches(config, samples, rank=runtime.rank, world_size=runtime.world_size)
    step = EvaluationStep(network) if answers is None else AnsweringStep(network)
    return lambda before_batch=None: evaluate_batches(step, batches, runtime, answers and answers.collect, before_batch)
