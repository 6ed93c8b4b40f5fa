"""Predict the classes of images: a story from top to bottom."""
from dataclasses import replace

from common.augment.pipeline import eval_transform
from common.config.options import Config
from common.config.origins import is_asked
from common.context.device import start
from common.context.ranks import Runtime
from common.dataset.classes import read_class_names
from common.dataset.images import expand_images, reading_of
from common.engine import open_cached, open_network
from common.errors import UserError
from common.logger import Waiting, set_up
from common.pictures.sheet import prediction_sheet
from common.predict import Predictor, Result, format_table, write_csv, write_json
from common.spec import ModelSpec


def predict(config: Config, spec: ModelSpec) -> list[Result]:
    """Classify the images of ``config.image`` with a checkpoint or an exported file, and print a table.

    Raises:
        UserError: if there is nothing to classify with, nothing to classify, or none of the images can be.
    """
    if not config.image:
        raise UserError("image: name the images to classify (--image FILE, FOLDER or 'PATTERN').")
    images = expand_images(config.image)
    opened = None if config.model_file else open_cached(config, spec)
    runtime = start(config) if opened is None else Runtime()
    logger = set_up(None, runtime.rank, spec.log_style.prefix.format(**vars(config)))
    names = read_class_names(config.class_names) if config.class_names else None
    if config.model_file:
        predictor = Predictor(config.model_file, None, names, config.batch_size, top_k=config.top_k)
        asked = {"exif": config.exif} if is_asked(config, "exif") else {}  # else as the file says
        predictor.reading = replace(predictor.reading, max_pixels=config.max_image_pixels, **asked)
        _check_exported(config, spec)
    else:
        opened = opened or open_network(config, spec)
        predictor = Predictor(opened.network, eval_transform(config), names or opened.classes,
                              min(config.batch_size, len(images)), top_k=config.top_k,
                              reading=reading_of(config))
        logger.info(f"{opened.engine} answers for {config.ckpt_path}.")
    with Waiting(f"Predicting {len(images)} image(s)"):
        results = predictor(images)
    if not predictor.given_names and predictor.class_names:
        shown = "ImageNet's are shown" if len(predictor.class_names) >= 1000 else "numbers are shown"
        logger.info(f"No class names came with this network, so that {shown}; --class_names FILE gives others.")
    print(format_table(results))
    if config.json:
        write_json(results, config.json)
    if config.csv:
        write_csv(results, config.csv)
    if config.sheet:
        prediction_sheet(results, config.sheet, classes=predictor.class_names)
    if not any(result.top for result in results):
        raise UserError(f"image: none of the {len(results)} images could be classified; {results[0].source}: "
                        f"{results[0].error}.")
    return results


def _check_exported(config: Config, spec: ModelSpec) -> None:
    """Refuse an exported file that says it holds a network of another model."""
    from common.export.description import read_description

    held = read_description(config.model_file).get("model", "")
    known = {*spec.variants, *spec.aliases, *(variant.partition("_")[0] for variant in spec.variants)}
    if held and held.lower().partition(" (")[0] not in map(str.lower, known):
        raise UserError(f"model_file: '{config.model_file}' holds {held}, which is no variant of {spec.name}; use the "
                        "infer.py of its own model.")
