"""SimCLRv2: pretrain without labels, fine-tune on a few, distil into a small network.

The method is the files of this folder, read in the order of docs/reading_guide.md. The rooms around it:
`data` (images and labels), `fast` and `scale` (the same numbers quicker, on several processes), `experiments`
and `runs` (what to train; recorded, resumable runs), `results` (records to claims, tables, figures),
`notebook`, `own_images`, `export`, `weights` and `cli`.

The names of `__init__.pyi` are the public API. They load on first use, so `import clrkit` is light.

Example:
    >>> import clrkit
    >>> data = clrkit.load(clrkit.Data(dataset="tinted_mnist", image_size=28))
    >>> config = clrkit.Pretrain(epochs=20, batch_size=64)
    >>> model = clrkit.pretrain(config, data)
"""

from lazy_loader import attach_stub

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)  # the names of __init__.pyi
