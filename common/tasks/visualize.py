"""Show what a network does with images, or what its weights are: a story from top to bottom."""
from pathlib import Path

from common.config.options import Config
from common.context.device import start
from common.dataset.images import expand_images, load_image, reading_of
from common.errors import UserError
from common.logger import Waiting
from common.network import load_network
from common.pictures.sheet import Subject, image_sheet
from common.run.training import open_console
from common.spec import ModelSpec

OUT = "visualize.png"
PAGE = 8   # images on a picture
CELL = 224  # pixels, side of an image in the picture


def visualize(config: Config, spec: ModelSpec) -> list[Path]:
    """Draw what the model's ``visualize`` makes of a network, ``config.ckpt_path``, and images, ``config.image``.

    Returns:
        The pictures: ``config.out``, and further ones with numbers where there are many images.

    Raises:
        UserError: if there is no image or no checkpoint, or a file cannot be read or written.
    """
    if spec.looks_at_images and not config.image:
        raise UserError("image: name the images to look at (--image FILE, FOLDER or 'PATTERN').")
    files = expand_images(config.image) if spec.looks_at_images else []
    logger = open_console(config, spec, start(config))
    network, report, classes = load_network(config, spec)
    for line in (f"{spec.name_of(vars(config))} from {config.ckpt_path}", *report.lines()):
        logger.info(line)
    written, out = [], Path(config.out or OUT)
    for first in range(0, max(len(files), 1), PAGE):
        subjects = [Subject(number, file.name, load_image(file, reading_of(config)))
                    for number, file in enumerate(files[first:first + PAGE], start=first)]
        with Waiting("Looking into the network"):
            rows = spec.visualize(config, network, classes, subjects)
        tiles = [tile for row in rows for tile in row]
        path = out.with_stem(f"{out.stem}_{first // PAGE + 1}") if first else out
        image_sheet([picture for picture, _ in tiles], [caption for _, caption in tiles], path, len(rows[0]), CELL)
        written.append(path)
    logger.info(f"{f'{len(files)} image(s): ' if files else ''}{', '.join(map(str, written))}")
    return written
