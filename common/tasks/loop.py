"""The loop of a training in the open: what ``train_with_func.py`` does in the place of the framework's ``Model.train``.

The result is the same to the bit, because the step is: a function of the weights and a batch, differentiated by
``value_and_grad`` (``common.train_step``). This is the place to look at, or to change, what happens between two steps.
"""
import contextlib
from types import SimpleNamespace
from typing import Sequence

from mindspore.dataset import GeneratorDataset
from mindspore.train import Callback

from common.train_step import TrainStep


def train_in_the_open(step: TrainStep, epochs: int, data: GeneratorDataset, callbacks: Sequence[Callback],
                      initial_epoch: int) -> None:
    """Take every batch through the step, and tell the callbacks what they ask for.

    Args:
        step: what is done with a batch.
        epochs: length of the whole training.
        data: the batches.
        callbacks: what happens around the steps.
        initial_epoch: epochs that are done already.
    """
    now = SimpleNamespace(cur_epoch_num=initial_epoch, net_outputs=None, dataset_sink_mode=False)
    context = SimpleNamespace(original_args=lambda: now)

    def tell(event: str) -> None:
        for callback in callbacks:
            getattr(callback, event)(context)

    with contextlib.ExitStack() as stack:
        for callback in callbacks:
            stack.enter_context(callback)
        batches = data.create_tuple_iterator(num_epochs=epochs - initial_epoch)
        step.set_train()
        tell("on_train_begin")
        for epoch in range(initial_epoch, epochs):
            now.cur_epoch_num = epoch + 1
            tell("on_train_epoch_begin")
            for batch in batches:
                now.net_outputs = step(*batch)
                tell("on_train_step_end")
            tell("on_train_epoch_end")
        tell("on_train_end")
