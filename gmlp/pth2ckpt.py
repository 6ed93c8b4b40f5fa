"""Convert gMLP weights: ``python gmlp/pth2ckpt.py --ckpt_path FILE.pth`` writes FILE.ckpt; a .ckpt goes back."""
import sys
from pathlib import Path

if not __package__: sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository root, when run as a script

import common.command  # noqa: F401, first: from here on Ctrl-C shows no traceback
from common.tasks.convert import main
from gmlp.src.spec import SPEC

if __name__ == "__main__":
    main(SPEC, timm={variant: f"{variant}16_224" for variant in SPEC.variants})
