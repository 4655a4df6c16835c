"""python benchmarks/speed.py: images a second of every stage, on the device at hand.

Each stage stands beside a plain way to do the same: dithering beside a loop over pixels, our
training step beside a float32 loop, PGD on the folded network beside the network as trained, C&W
and ZOO beside foolbox and ART with the same budget. The sides of a stage take turns, so that what
else the machine does meets all of them, and a speed is that of the median turn.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reproduce import data, models, runner
from reproduce.attacks import ZOO, CarliniWagner
from reproduce.attacks.black_box import quiet_foolbox
from reproduce.dither import bayer, floyd_steinberg, jarvis_judice_ninke
from reproduce.evaluation import correct
from reproduce.papers import double
from reproduce.training import train

BITS = 2
STEPS = 4  # training steps in one call


Side = tuple[Callable[[], object], int]  # a job, and on how many images it works


def rates(sides: dict[str, Side], seconds: float) -> dict[str, float]:
    """Images a second of each job, by the median of its turns: A B A B ...

    Args: seconds: for each job, on average; each has at least one turn after one that does not
          count.
    """

    def turn(job: Callable[[], object]) -> float:
        started = time.perf_counter()
        job()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    for job, _ in sides.values():
        turn(job)
    spent: dict[str, list[float]] = {name: [] for name in sides}
    started = time.perf_counter()
    while not spent[next(iter(sides))] or time.perf_counter() - started < seconds * len(sides):
        for name, (job, _) in sides.items():
            spent[name].append(turn(job))
    return {name: images / median(spent[name]) for name, (_, images) in sides.items()}


def dither_pixel_by_pixel(images: Tensor, bits: int) -> Tensor:
    """The released Floyd-Steinberg dither as a loop over pixels: what it costs without a compiler.

    Args:    images: (N, C, H, W) uint8. bits: 1..7.
    Returns: the same as floyd_steinberg(images, bits).
    """
    width = images.shape[-1]
    output = []
    for plane in images.flatten(0, 1).tolist():
        for y, row in enumerate(plane):
            for x, old in enumerate(row):
                row[x] = old // 2 ** (8 - bits) * 255 // (2**bits - 1)
                for dy, dx, weight in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                    if y + dy < len(plane) and x + dx < width and (dx >= 0 or x > 1):
                        moved = plane[y + dy][x + dx] + round((old - row[x]) * weight / 16)
                        plane[y + dy][x + dx] = min(max(moved, 0), 255)
        output.append(plane)
    return torch.tensor(output, dtype=torch.uint8).view(images.shape)


def dithering(images: Tensor, seconds: float) -> dict[str, float]:
    """Images a second of each halftone."""
    few = images[:2].cpu()
    stages = {
        "pixel by pixel in Python": (dither_pixel_by_pixel, few),
        "Floyd-Steinberg, released": (floyd_steinberg, images),
        "ordered (Bayer)": (bayer, images),
        "Jarvis-Judice-Ninke": (jarvis_judice_ninke, images),
    }
    sides = {n: (functools.partial(dither, x, BITS), len(x)) for n, (dither, x) in stages.items()}
    return rates(sides, seconds)


def plain_steps(model: nn.Module, images: Tensor, labels: Tensor, prepare, batch: int) -> None:
    """The same training as a plain loop: float32, no channels_last, momentum SGD."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    generator = torch.Generator(images.device).manual_seed(0)
    model.train()
    for x, y in zip(images.split(batch), labels.split(batch), strict=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(prepare(data.crop_and_flip(x, generator))), y)
        loss.backward()
        optimizer.step()
        loss.item()


def training(
    images: Tensor, labels: Tensor, batch: int, seconds: float
) -> tuple[dict[str, float], float]:
    """Images a second of both loops, and the share of dithering in a step of ours."""
    network = double.network(BITS, True)
    settings = replace(network.training, epochs=1, batch_size=batch)
    plain, ours = (network.build().to(images.device) for _ in range(2))
    prepare = network.prepare
    spent = []

    def steps() -> None:
        spent.append(train(ours, images, labels, settings, 0, prepare=prepare))

    stages = {
        "plain float32 loop": lambda: plain_steps(plain, images, labels, prepare, batch),
        "this package": steps,
    }
    speeds = rates({name: (job, len(images)) for name, job in stages.items()}, seconds)
    timed = spent[1:]
    return speeds, sum(p.prepare_s for p in timed) / sum(p.seconds for p in timed)


def attacking(images: Tensor, labels: Tensor, steps: int, seconds: float) -> dict[str, float]:
    """Images a second of an evaluation under PGD."""
    attack = replace(double.paper_attack("paper"), steps=steps)
    model = double.network(BITS, True).build().to(images.device).eval()
    networks = {
        "network as trained": model,
        "batch normalisation folded": models.folded(model).to(memory_format=torch.channels_last),
    }
    options = {"batch_size": len(images)}
    sides = {
        name: (functools.partial(correct, network, images, labels, attack, **options), len(images))
        for name, network in networks.items()
    }
    return rates(sides, seconds)


def searching(
    images: Tensor, steps: int, seconds: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Images a second of C&W (3 values of c) and of ZOO (64 pixels at a time; 2 images).

    The labels are the network's own answers, since what is wrong as it stands takes no search.
    """
    from art.attacks.evasion import ZooAttack
    from art.estimators.classification import PyTorchClassifier

    model = models.folded(double.network(BITS, True).build()).to(images.device)
    x = data.to_float(images)
    with torch.no_grad():
        labels = model(x).argmax(1)
    bounds, classes = (0, 1), 10
    with quiet_foolbox() as foolbox:
        wrapped = foolbox.PyTorchModel(model, bounds=bounds, device=images.device)
        theirs = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=3, steps=steps, stepsize=0.01, initial_const=1, abort_early=False
        )
    ours = CarliniWagner(steps=steps, search_steps=3, lr=0.01, initial_c=1)
    cw = {
        "foolbox": lambda: theirs.run(wrapped, x, foolbox.criteria.Misclassification(labels)),
        "this package": lambda: ours.run(model, x, labels),
    }
    kind = "gpu" if images.is_cuda else "cpu"
    classifier = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), classes, device_type=kind
    )
    art = ZooAttack(
        classifier, learning_rate=0.01, max_iter=steps, binary_search_steps=1, initial_const=1,
        abort_early=False, use_resize=False, use_importance=False, nb_parallel=64,
        variable_h=1 / 255, verbose=False,
    )  # fmt: skip
    few, right = x[:2], labels[:2]
    budget = ZOO(1 + steps * (2 * 64 + 1), 1, 64, h_255=1, lr=0.01, initial_c=1)
    zoo = {
        "ART": lambda: art.generate(few.cpu().numpy(), right.cpu().numpy()),
        "this package": lambda: budget.run(model, few, right, seed=0),
    }
    return (
        rates({name: (job, len(x)) for name, job in cw.items()}, seconds),
        rates({name: (job, len(few)) for name, job in zoo.items()}, seconds),
    )


def show(title: str, speeds: dict[str, float]) -> None:
    """One stage; the first line is what the others are compared with."""
    first = next(iter(speeds.values()))
    print(f"\n{title:<40}{'images/s':>12}{'speed-up':>12}")
    for name, speed in speeds.items():
        print(f"  {name:<38}{speed:>12,.1f}{speed / first:>11,.1f}x")


def main(seconds: float = 2.0, batch: int = 128, steps: int = 20) -> None:
    """Print a table for each stage.

    Args: seconds: for each measurement. batch: images at a time. steps: of the attacks.
    """
    device = runner.device()
    dataset = data.load("patterns")
    images = dataset.x_train[: STEPS * batch].to(device)
    labels = dataset.y_train[: STEPS * batch].to(device)
    print(f"device: {runner.device_name()}\ntorch {torch.__version__}, batches of {batch}")
    show(f"Dithering to {BITS} bits", dithering(images[:batch], seconds))
    speeds, share = training(images, labels, batch, seconds)
    show("Training ResNet-20, dithering included", speeds)
    print(f"  share of dithering in a step of this package: {share:.1%}")
    few = slice(max(1, batch // 4))
    speeds = attacking(images[few], labels[few], steps, seconds)
    show(f"Evaluation under PGD-{steps}", speeds)
    cw, zoo = searching(images[few], steps, seconds)
    show(f"C&W, {steps} steps", cw)
    show(f"ZOO, {steps} steps", zoo)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
