"""Read and convert the released TensorFlow checkpoints (`clrkit.weights.official`).

from clrkit.model import Model
from clrkit.official import convert, read_checkpoint

config, state = convert(read_checkpoint("r50_1x_sk0/model.ckpt-250228"))
model = Model(config)
model.load_state_dict(state)
"""

from clrkit.weights.official import convert, read_checkpoint

__all__ = ["convert", "read_checkpoint"]
