"""The runs of `migrate demo`, made with the real W&B SDK, offline: `python -m migrator.commands.demo.runs PROCESS`.

`PROCESSES` says which process makes which runs. All can be started at once. W&B writes only to the directory in the
environment (WANDB_DIR).
"""

from __future__ import annotations

import math
import os
import random
import sys
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import wandb

ENTITY = "demo"
VISION, TEXT = "vision", "text_models"  # Neptune allows no `_`: the second becomes text-models
LONG_ROWS = 5_000  # with LAYERS, long enough to be stopped half-way
LAYERS = 20
SHORT_ROWS = 200
CRASHED_AFTER_ROWS = 2_000
CRASHED_AGE_S = 3_600  # W&B's own rule: an unfinished log that is no longer written belongs to a crashed run


@contextmanager
def new_run(project: str, run_id: str, **options: Any) -> Iterator[Any]:
    """A run that ends with the block."""
    settings = wandb.Settings(x_stats_sampling_interval=1.0)
    run = wandb.init(entity=ENTITY, project=project, id=run_id, settings=settings, **options)
    try:
        yield run
    finally:
        run.finish()


def train(run: Any, rows: int, learning_rate: float, first_row: int = 0, layers: int = 0) -> None:
    """Log a training curve, with the same numbers every time."""
    noise = random.Random(run.id)
    for i in range(first_row, first_row + rows):
        loss = math.exp(-learning_rate * i / 20) + noise.random() * 0.05
        gradients = {f"gradients/layer {layer}": loss / (layer + 1) for layer in range(layers)}
        run.log({"train/loss": loss, "train/accuracy": 1 - loss / 2, "epoch": i // 100, **gradients})


# ---------------------------------------------------------------- one function per run


def sweep() -> None:
    """Three runs of one group, with nested configs."""
    for number, learning_rate in enumerate((0.1, 0.03, 0.01), start=1):
        config = {
            "optimizer": {"name": "adam", "lr": learning_rate, "betas": [0.9, 0.999], "schedule": {"warmup": 5}},
            "data": {"name": "cifar10", "augment": True, "crop": None},
        }
        options = {"group": "learning-rate", "tags": ["sweep", "resnet"], "notes": f"Learning rate {learning_rate}"}
        with new_run(VISION, f"sweep-{number}", name=f"lr {learning_rate}", config=config, **options) as run:
            train(run, SHORT_ROWS, learning_rate)
            run.summary["best"] = {"accuracy": 0.97, "epoch": 1}


def long(project: str, run_id: str) -> None:
    with new_run(project, run_id, name=f"{LONG_ROWS:,} steps", tags=["long"]) as run:
        train(run, LONG_ROWS, 0.001, layers=LAYERS)


def media() -> None:
    """Histograms, tables, HTML pages and sounds."""
    with new_run(VISION, "media", name="pictures of a training", job_type="eval") as run:
        for i in range(5):
            sound = _tone(Path(run.dir).parent / "tmp" / f"tone-{i}.wav", 220 * (i + 1))
            bars = [(10 + i * j) % 7 for j in range(8)]
            run.log(
                {
                    "weights": wandb.Histogram(np_histogram=(bars, [j / 8 for j in range(9)])),
                    "predictions": wandb.Table(columns=["image", "label"], data=[[j, f"cat {j}"] for j in range(3)]),
                    "report": wandb.Html(f"<h1>Epoch {i}</h1>"),
                    "sound": wandb.Audio(str(sound), caption=f"{220 * (i + 1)} Hz"),
                }
            )


def _tone(path: Path, hertz: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8_000)
        file.writeframes(bytes(128 + round(100 * math.sin(math.tau * hertz * i / 8_000)) for i in range(800)))
    return path


def resumed(first_row: int) -> None:
    """One of the two starts of a run: the second continues where the first ended, in its own directory."""
    with new_run(VISION, "resumed", name="resumed after a break", resume="allow") as run:
        train(run, SHORT_ROWS, 0.02, first_row)


def crashed() -> None:
    """A run whose machine loses power: its log has no end."""
    with new_run(VISION, "crashed", name="power cut") as run:
        train(run, CRASHED_AFTER_ROWS, 0.02)
        log = next(Path(run.dir).parent.glob("*.wandb"))
        while log.stat().st_size < 100_000:  # the writer has not written it yet
            time.sleep(0.05)
        for child in psutil.Process().children(recursive=True):
            child.kill()
            child.wait()
        then = time.time() - CRASHED_AGE_S
        os.utime(log, (then, then))
        os._exit(0)


def diverged() -> None:
    """A run that logs numbers that are not finite, and fails."""
    with new_run(TEXT, "diverged", name="diverged", config={"seed": 2**70, "lr": 10.0}) as run:
        for i in range(SHORT_ROWS):
            run.log({"loss": 2.0**i if i < 100 else math.nan, "grad": math.inf if i > 90 else 1.5**i})
        run.finish(exit_code=1)


def words() -> None:
    """Text series, alone and mixed with numbers, and nested rows."""
    with new_run(TEXT, "words", name="Wörter und 数字", notes="Two lines,\nand “quotes”.") as run:
        for i in range(50):
            row = {"sample": f"Once upon a time {i}", "score": i / 7 if i % 5 else "not computed"}
            run.log({**row, "tokens": {"in": i * 100, "out": i * 90}})


def talkative() -> None:
    """Console output on both streams."""
    with new_run(TEXT, "talkative", name="console output") as run:
        for i in range(100):
            print(f"epoch {i}: loss {1 / (i + 1):.4f}")
            if i % 25 == 0:
                print(f"warning: slow batch in epoch {i}", file=sys.stderr)
            run.log({"loss": 1 / (i + 1)})


def names() -> None:
    """Metrics whose names have another meaning in Neptune, and a picture that somebody has deleted."""
    with new_run(TEXT, "names", name="[red] names / levels") as run:
        for i in range(20):
            run.log({"config/lr": 0.1 / (i + 1), "system/load": i % 3, "a//b": i, "plots": wandb.Html(f"<p>{i}</p>")})
        lost = sorted(Path(run.dir).glob("media/html/plots_7_*"))
    for path in lost:
        path.unlink()


Make = Callable[[], None]

#: the runs that each process makes, in order; between the two starts of one run there is another run
PROCESSES: dict[str, tuple[Make, ...]] = {
    "vision": (
        lambda: resumed(0),
        sweep,
        media,
        lambda: long(VISION, "long"),
        lambda: resumed(SHORT_ROWS),
    ),
    "text": (lambda: long(TEXT, "longer"), diverged, words, talkative, names),
    "crash": (crashed,),
}


def main(process: str) -> None:
    for make in PROCESSES[process]:
        make()


if __name__ == "__main__":
    main(sys.argv[1])
