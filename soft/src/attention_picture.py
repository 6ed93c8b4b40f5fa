"""Pictures of what a SOFT looks at: how much of every place in the image a few chosen places take, stage by stage."""
from typing import Sequence

import mindspore as ms
import numpy as np

from common.augment.pipeline import eval_transform
from common.config.options import Config
from common.pictures.heat_map import enlarge, lay_over, mark_place
from common.pictures.inside import inputs_of, operation_by_operation
from common.pictures.sheet import Row, Subject, picture_of
from soft.src.options import read_positions
from soft.src.softmax_free_vision_transformer import SOFT


def attention_rows(config: Config, network: SOFT, subjects: Sequence[Subject]) -> list[Row]:
    """Return a row for each image and each of ``config.positions``: the image, and the attention of every stage."""
    positions, rows = read_positions(config.positions), []
    for subject in subjects:
        array = eval_transform(config)(subject.image)
        image, maps = enlarge(picture_of(array, config)), attention_maps(network, array, positions)
        for number, place in enumerate(positions):
            row = [(mark_place(image, place), f"{subject.name}\nfrom row {place[0]:.0%}, column {place[1]:.0%}")]
            for stage, values in enumerate(maps, start=1):
                row.append((mark_place(lay_over(image, np.abs(values[number])), place),
                            f"stage {stage}\n{values.shape[1]} x {values.shape[2]} tokens"))
            rows.append(row)
    return rows


def attention_maps(network: SOFT, image: np.ndarray, positions: Sequence[tuple[float, float]]) -> list[np.ndarray]:
    """Return the attention of each softmax-free stage's last block, mean over its heads.

    Args:
        image: (C, H, W), normalised.
        positions: places that look.

    Returns:
        One array per stage, (len(positions), rows, columns), of any sign: the kernel's inverse is no average.
    """
    blocks = [stage[-1].attn for stage in (network.block1, network.block2, network.block3)]
    maps, inputs = [], inputs_of(blocks, lambda: network.set_train(False)(ms.Tensor(image[None])))
    for block, (tokens, grid) in zip(blocks, inputs):
        places = [int(row * (grid[0] - 1) + 0.5) * grid[1] + int(column * (grid[1] - 1) + 0.5)
                  for row, column in positions]
        with operation_by_operation():
            rows = block.rows(tokens, grid, places).asnumpy().astype(np.float64)
        maps.append(rows[0].mean(0).reshape(len(positions), *grid))
    return maps
