"""SimCLRv2 in one page: pretrain without labels, fine-tune on 1% of them, distil. Two CPU cores, one minute.

Run: python examples/simclrv2_in_one_page.py [epochs of pretraining, 20 by default]
"""

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

import clrkit

SIZE = 28  # pixels
TEMPERATURE = 0.2  # of NT-Xent
NETWORK = clrkit.Network(depth=8, width=2.0, stem="stride2")
STRONG = clrkit.Augmentation(crop_area=0.5, flip=False)  # for contrastive learning
WEAK = clrkit.Augmentation(crop_area=0.5, flip=False, color_strength=0.0)  # for training on labels
rng = torch.Generator().manual_seed(0)


def batches(count: int, size: int, epochs: int) -> list[Tensor]:
    """Indices of every batch of a training run, shuffled every epoch."""
    orders = [torch.randperm(count, generator=rng)[: count // size * size] for _ in range(epochs)]
    return [batch for order in orders for batch in order.split(size)]


def take_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def pretrain(images: Tensor, epochs: int) -> clrkit.Model:
    """Stage 1: two views of one image should have similar projections (NT-Xent)."""
    model = clrkit.Model(clrkit.ModelConfig(network=NETWORK, head_layers=3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-4)
    for batch in batches(len(images), 64, epochs):
        view1, view2 = clrkit.two_views(images[batch], STRONG, SIZE, rng)
        z1, z2 = model.project(torch.cat((view1, view2))).chunk(2)
        take_step(clrkit.nt_xent(z1, z2, TEMPERATURE), optimizer)
    return model


def finetune(pretrained: clrkit.Model, images: Tensor, labels: Tensor, classes: int) -> clrkit.Model:
    """Stage 2: train the whole network on few labels, from the first layer of the projection head."""
    config = clrkit.ModelConfig(network=NETWORK, head_layers=3, classes=classes, tap_layer=1)
    model = clrkit.Model(config)
    model.encoder.load_state_dict(pretrained.encoder.state_dict())
    model.head.load_state_dict(pretrained.head.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    for batch in batches(len(images), 32, epochs=100):
        view, _ = clrkit.two_views(images[batch], WEAK, SIZE, rng)
        take_step(F.cross_entropy(model(view), labels[batch]), optimizer)
    return model.eval()


def distill(teacher: clrkit.Model, images: Tensor, classes: int) -> clrkit.Model:
    """Stage 3: a student learns the teacher's outputs on all images, without their labels."""
    student = clrkit.Model(clrkit.ModelConfig(network=NETWORK, classes=classes))
    optimizer = torch.optim.AdamW(student.parameters(), lr=4e-3, weight_decay=1e-4)
    for batch in batches(len(images), 64, epochs=10):
        view, _ = clrkit.two_views(images[batch], WEAK, SIZE, rng)
        with torch.no_grad():
            target = teacher(view)
        take_step(clrkit.distillation(student(view), target, temperature=1.0), optimizer)
    return student.eval()


def main(epochs: int = 20) -> None:
    torch.manual_seed(0)  # first weights
    data = clrkit.load(clrkit.Data(dataset="tinted_mnist", image_size=SIZE))
    images, classes = torch.from_numpy(data.train.pixels.array), len(data.classes)
    labels = torch.from_numpy(data.train.labels)
    few = torch.cat(
        [(labels == each).nonzero()[: len(labels) // 100 // classes, 0] for each in range(classes)]
    )

    model = pretrain(images, epochs)
    teacher = finetune(model, images[few], labels[few], classes)
    print(f"fine-tuned on {len(few)} labels:  {clrkit.accuracy(teacher, data, SIZE):.1%}", flush=True)
    student = distill(teacher, images, classes)
    print(f"distilled into a student: {clrkit.accuracy(student, data, SIZE):.1%}", flush=True)
    baseline = finetune(
        clrkit.Model(clrkit.ModelConfig(network=NETWORK, head_layers=3)), images[few], labels[few], classes
    )
    print(f"the same labels without pretraining: {clrkit.accuracy(baseline, data, SIZE):.1%}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
