"""SimCLRv2: pretrain without labels, fine-tune on a few, distil into a small network.

The method is the files of this folder, read in the order of docs/reading_guide.md. The rooms around it:
`data` (images and labels), `fast` and `scale` (the same numbers quicker, on several processes), `experiments`
and `runs` (what to train; recorded, resumable runs), `results` (records to claims, tables, figures),
`notebook`, `own_images`, `export`, `weights` and `cli`.

The names below are the public API. They load on first use, so `import clrkit` is light.

Example:
    >>> import clrkit
    >>> data = clrkit.load(clrkit.Data(dataset="tinted_mnist", image_size=28))
    >>> config = clrkit.Pretrain(epochs=20, batch_size=64)
    >>> model = clrkit.pretrain(config, data)
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "augment": "two_views",
    "config": "Augmentation Data Distill Finetune Network Optimizer Pretrain Probe Supervised",
    "data.datasets": "load",
    "losses": "distillation nt_xent",
    "model": "Model ModelConfig",
    "optim": "LARS",
    "resnet": "ResNet",
    "runs.train": "accuracy distill finetune pretrain supervised",
}
__all__ = [name for names in _HOMES.values() for name in names.split()]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(f"clrkit.{module}"), name)
    raise AttributeError(f"module 'clrkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
