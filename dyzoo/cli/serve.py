"""`dyzoo serve`: a detector behind HTTP."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from dyzoo.cli.flips import FlipOption, parse_flips
from dyzoo.cli.options import (
    ClassesOption,
    DeviceOption,
    ModelOption,
    SizeOption,
    lift_limit,
    load_for_classes,
    optimize_option,
    optimized,
    parse_size,
    parse_tiles,
)
from dyzoo.cli.settings import option_of, takes_settings
from dyzoo.cli.terminal import say
from dyzoo.cli.thresholds import ThresholdOption, parse_thresholds
from dyzoo.config.serving import ServeConfig


@takes_settings(ServeConfig)
def serve(
    config: ServeConfig,
    model: ModelOption = None,
    classes: ClassesOption = None,
    threshold: ThresholdOption = None,
    device: DeviceOption = None,
    size: SizeOption = None,
    tiles: Annotated[str | None, option_of(ServeConfig, "tiles", shown="off")] = None,
    flips: FlipOption = None,
    optimize: Annotated[bool | None, optimize_option("on a CPU")] = None,
) -> None:
    """Answer HTTP requests with what a detector finds in their pictures.

    POST /predict takes a form with files, or a picture as the body, and the parameters threshold, classes and size;
    GET / is a page to try it, /model has the classes, /healthz and /metrics are for those who run it. There is no
    password: only this machine reaches it unless --host says otherwise.

    SIGTERM and Ctrl-C stop it in good order: what runs is finished, the exit code is 0.

    \b
    Examples:
      dyzoo serve
      dyzoo serve --model runs/mine --threshold 0.5 --host 0.0.0.0
      dyzoo serve --model mine.onnx --port 9000 --max-batch 1
      curl -F images=@a.jpg -F images=@b.jpg localhost:8000/predict
      curl -H 'Content-Type: image/jpeg' --data-binary @a.jpg \\
        'localhost:8000/predict?threshold=0.5&classes=RBC,WBC'
    """
    from dyzoo.model.missed import MissedWarning
    from dyzoo.serving import create_app
    from dyzoo.serving.running import bind_socket
    from dyzoo.serving.running import serve as run
    from dyzoo.zoo.names import DEFAULT_MODEL

    config = replace(config, size=parse_size(size), tiles=parse_tiles(tiles), flips=tuple(parse_flips(flips)))
    thresholds = parse_thresholds(threshold)
    lift_limit(config.max_pixels)
    with bind_socket(config.host, config.port) as bound:
        detector, kept = load_for_classes(model, device, classes)
        detector = optimized(detector, optimize, config.precision)
        config = replace(config, classes=kept, threshold=thresholds.for_classes(detector.labels))
        warnings.simplefilter("ignore", MissedWarning)  # the notes say the same of each picture
        logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("dyzoo.serving").setLevel(logging.INFO)
        name = _public_name(model or DEFAULT_MODEL)
        app = create_app(detector, config, name)

        def announce() -> None:
            host, port = bound.getsockname()[:2]
            say(f"{name} on {detector.device}: http://{f'[{host}]' if ':' in host else host}:{port}")
            sys.stdout.flush()

        run(app, bound, config.shutdown_timeout, announce)


def _public_name(model: str) -> str:
    """The detector's name for clients: of a path its last part alone."""
    path = Path(model).expanduser()
    return path.resolve().name if path.exists() else model
