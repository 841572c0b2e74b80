"""SimCLRv2 in one page: pretrain without labels, fine-tune on 1% of them, distil. Two CPU cores, one minute.

Run: python examples/simclrv2_in_one_page.py [epochs of pretraining, 20 by default]
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

import clrkit

SIZE, TEMPERATURE = 28, 0.2  # side of an image in pixels; of NT-Xent
NETWORK = clrkit.Network(depth=8, width=1.0, stem="stride2")
STRONG = clrkit.Augmentation(crop_area=0.5, flip=False)  # for contrastive learning
WEAK = clrkit.Augmentation(crop_area=0.5, flip=False, color_strength=0.0)  # for training on labels
rng = torch.Generator().manual_seed(0)


def batches(count: int, size: int, epochs: int) -> list[Tensor]:
    """Indices of every batch of a training run, shuffled every epoch."""
    orders = [torch.randperm(count, generator=rng)[: count // size * size] for _ in range(epochs)]
    return [batch for order in orders for batch in order.split(size)]


class AdamW(torch.optim.AdamW):
    """AdamW whose learning rate warms up and falls along a cosine, over so many steps."""

    def __init__(self, model: clrkit.Model, peak: float, steps: int) -> None:
        super().__init__(model.parameters(), lr=peak, weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self, peak, steps, pct_start=0.1)

    def descend(self, loss: Tensor) -> None:
        self.zero_grad()
        loss.backward()
        self.step()
        self.schedule.step()


def pretrain(images: Tensor, epochs: int) -> clrkit.Model:
    """Stage 1: two views of one image should have similar projections (NT-Xent)."""
    model = clrkit.Model(clrkit.ModelConfig(network=NETWORK, head_layers=3))
    order = batches(len(images), 64, epochs)
    optimizer = AdamW(model, 4e-3, len(order))
    for batch in order:
        view1, view2 = clrkit.two_views(images[batch], STRONG, SIZE, rng)
        z1, z2 = model.project(torch.cat((view1, view2))).chunk(2)
        optimizer.descend(clrkit.nt_xent(z1, z2, TEMPERATURE))
    return model


def finetune(pretrained: clrkit.Model, images: Tensor, labels: Tensor, classes: int) -> clrkit.Model:
    """Stage 2: train the whole network on few labels, from the first layer of the projection head."""
    config = clrkit.ModelConfig(network=NETWORK, head_layers=3, classes=classes, tap_layer=1)
    model = clrkit.Model(config)
    model.encoder.load_state_dict(pretrained.encoder.state_dict())
    model.head.load_state_dict(pretrained.head.state_dict())
    order = batches(len(images), 32, epochs=100)
    optimizer = AdamW(model, 2e-3, len(order))
    for batch in order:
        view, _ = clrkit.two_views(images[batch], WEAK, SIZE, rng)
        optimizer.descend(F.cross_entropy(model(view), labels[batch]))
    return model.eval()


def distill(teacher: clrkit.Model, images: Tensor, classes: int) -> clrkit.Model:
    """Stage 3: a student learns the teacher's outputs on all images, without their labels."""
    student = clrkit.Model(clrkit.ModelConfig(network=NETWORK, classes=classes))
    order = batches(len(images), 64, epochs=10)
    optimizer = AdamW(student, 4e-3, len(order))
    for batch in order:
        view, _ = clrkit.two_views(images[batch], WEAK, SIZE, rng)
        with torch.no_grad():
            target = teacher(view)
        optimizer.descend(clrkit.distillation(student(view), target, temperature=1.0))
    return student.eval()


def main(epochs: int = 20) -> None:
    torch.manual_seed(0)  # first weights
    data = clrkit.load(clrkit.Data(dataset="tinted_mnist", image_size=SIZE))
    images, classes = torch.tensor(data.train.pixels.array), len(data.classes)
    labels = torch.from_numpy(data.train.labels)
    few = torch.cat(
        [(labels == each).nonzero()[: len(labels) // 100 // classes, 0] for each in range(classes)]
    )

    model = pretrain(images, epochs)
    teacher = finetune(model, images[few], labels[few], classes)
    print(f"fine-tuned on {len(few)} labels:  {clrkit.accuracy(teacher, data, SIZE):.1%}", flush=True)
    student = distill(teacher, images, classes)
    print(f"distilled into a student: {clrkit.accuracy(student, data, SIZE):.1%}", flush=True)
    untrained = clrkit.Model(clrkit.ModelConfig(network=NETWORK, head_layers=3))
    baseline = finetune(untrained, images[few], labels[few], classes)
    print(f"the same labels without pretraining: {clrkit.accuracy(baseline, data, SIZE):.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
