from .augment import two_views as two_views
from .config import Augmentation as Augmentation
from .config import Data as Data
from .config import Distill as Distill
from .config import Finetune as Finetune
from .config import Network as Network
from .config import Optimizer as Optimizer
from .config import Pretrain as Pretrain
from .config import Probe as Probe
from .config import Supervised as Supervised
from .data.datasets import load as load
from .losses import distillation as distillation
from .losses import nt_xent as nt_xent
from .model import Model as Model
from .model import ModelConfig as ModelConfig
from .optim import LARS as LARS
from .resnet import ResNet as ResNet
from .runs.train import accuracy as accuracy
from .runs.train import distill as distill
from .runs.train import finetune as finetune
from .runs.train import pretrain as pretrain
from .runs.train import supervised as supervised

__version__: str
