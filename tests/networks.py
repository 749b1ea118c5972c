"""Backbones written once more, one member each, in plain torch.nn and no line of fastmte's."""

import torch
from torch import nn


class Vgg(nn.Module):
    """MTG-Jamendo's baseline, with its names."""

    POOLS = ((2, 4), (2, 4), (2, 4), (3, 5), (4, 4))
    CHANNELS = (1, 64, 128, 128, 128, 64)

    def __init__(self, n_labels):
        super().__init__()
        self.bn_init = nn.BatchNorm2d(1)
        for i in range(1, 6):
            setattr(self, f"conv_{i}", nn.Conv2d(*self.CHANNELS[i - 1 : i + 1], 3, padding=1))
            setattr(self, f"bn_{i}", nn.BatchNorm2d(self.CHANNELS[i]))
        self.dense = nn.Linear(64, n_labels)

    def forward(self, mels):
        x = self.bn_init(mels.unsqueeze(1))
        for i, pool in enumerate(self.POOLS, start=1):
            x = getattr(self, f"bn_{i}")(getattr(self, f"conv_{i}")(x))
            x = nn.functional.max_pool2d(nn.functional.elu(x), pool)
        return self.dense(x.flatten(1))


class CustomCnn(nn.Module):
    """The wider VGG of the paper's code, with its names."""

    POOLS = (*Vgg.POOLS, None)
    CHANNELS = (1, 64, 128, 128, 256, 512, 512)

    def __init__(self, n_labels):
        super().__init__()
        self.bn_init = nn.BatchNorm2d(1)
        for i in range(1, 7):
            setattr(self, f"conv_{i}", nn.Conv2d(*self.CHANNELS[i - 1 : i + 1], 3, padding=1))
            setattr(self, f"bn_{i}", nn.BatchNorm2d(self.CHANNELS[i]))
        self.dense = nn.Linear(512, n_labels)

    def forward(self, mels):
        x = self.bn_init(mels.unsqueeze(1))
        for i, pool in enumerate(self.POOLS, start=1):
            x = nn.functional.elu(getattr(self, f"bn_{i}")(getattr(self, f"conv_{i}")(x)))
            x = x if pool is None else nn.functional.max_pool2d(x, pool)
        return self.dense(x.flatten(1))


class Crnn(nn.Module):
    """The paper's authors' CRNN of 2019, with Keras' names, without its dropout."""

    def __init__(self, n_labels):
        super().__init__()
        for i, (a, b) in enumerate(((1, 64), (64, 128), (128, 128), (128, 128)), start=1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, 3, padding=1))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b, eps=1e-3, momentum=0.01))
        self.gru1 = nn.GRU(128, 32, batch_first=True)
        self.gru2 = nn.GRU(32, 32, batch_first=True)
        self.output = nn.Linear(32, n_labels)

    def forward(self, mels):
        padding = 1440 - mels.shape[2]
        x = nn.ZeroPad2d((padding // 2, (padding + 1) // 2, 0, 0))(mels.unsqueeze(1))
        for i, side in enumerate((2, 3, 4, 4), start=1):
            x = nn.functional.elu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
            x = nn.functional.max_pool2d(x, side)
        sequence, _ = self.gru1(x[:, :, 0].transpose(1, 2))  # 15 steps of 128
        _, last = self.gru2(sequence)
        return self.output(last[0])


class Basic(nn.Module):
    """He et al.'s block."""

    def __init__(self, inputs, outputs, stride, first):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Uibk(nn.Module):
    """The block of the paper's code, with the two layers it never calls."""

    def __init__(self, inputs, outputs, stride, first):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3, self.bn3 = nn.Conv2d(outputs, outputs, 1), nn.BatchNorm2d(outputs)
        self.identity_downsample = None
        if first:
            conv = nn.Conv2d(inputs, outputs, 1, stride)
            self.identity_downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn3(self.conv3(self.bn2(self.conv2(x)).relu()))
        return (y + (x if self.identity_downsample is None else self.identity_downsample(x))).relu()


class ResNet(nn.Module):
    def __init__(self, block, depths, n_labels):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=block is Uibk)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for i, (outputs, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True)):
            blocks = []
            for j in range(depth):
                blocks.append(block(inputs, outputs, 2 if i and not j else 1, not j))
                inputs = outputs
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(512, n_labels)

    def forward(self, mels):
        x = self.bn1(self.conv1(mels.unsqueeze(1))).relu()
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


NETWORKS = {
    "vgg": Vgg,
    "custom-vgg": CustomCnn,
    "crnn": Crnn,
    "resnet18": lambda n: ResNet(Basic, (2, 2, 2, 2), n),
    "resnet34": lambda n: ResNet(Basic, (3, 4, 6, 3), n),
    "resnet18-uibk": lambda n: ResNet(Uibk, (2, 2, 2, 2), n),
    "resnet34-uibk": lambda n: ResNet(Uibk, (3, 4, 6, 3), n),
}
# As few as the network takes, for speed; others take FEW. The CRNN pads all to 1440.
FRAMES = {"vgg": 1280, "custom-vgg": 1280, "crnn": 1365}
FEW = 64


def network(name, n_labels, seed=0):
    """Return a plain network whose normalisations have statistics of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = NETWORKS[name](n_labels)
        randomise(net)
    return net.eval()


@torch.no_grad()
def randomise(net):
    """Give every normalisation statistics and factors that are not 0 and 1."""
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            decibel = name == "bn_init"
            module.running_mean.normal_(-24.0 if decibel else 0.0, 1.0 if decibel else 0.1)
            module.running_var.uniform_(*((250, 350) if decibel else (0.5, 2)))
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
            module.num_batches_tracked.fill_(int(torch.randint(1, 1000, ())))


@torch.no_grad()
def settle(net, mels):
    """Set the running statistics to those of ``mels``, as training does, and go to evaluation.

    Statistics of a map of a single point are left alone: two songs of noise are too alike there.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momentums = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0 if norm is getattr(net, "bn_6", None) else 1.0
    for module in net.modules():
        if hasattr(module, "set_key"):  # dropout
            module.set_key(0, 0)
    net.train()(mels)
    for norm, momentum in zip(norms, momentums, strict=True):
        norm.momentum = momentum
    net.eval()


def mels_of(name, n_songs=2, seed=0, frames=None):
    """Return mels (B, 96, F) in dB, about as loud as music."""
    generator = torch.Generator().manual_seed(seed)
    shape = n_songs, 96, frames or FRAMES.get(name, FEW)
    return torch.randn(shape, generator=generator) * 18 - 23


def state_of(net):
    """Return a plain network's state under a fused ensemble's names, without dead layers."""
    state = {}
    for name, value in net.state_dict().items():
        if isinstance(net, ResNet) and hasattr(net.layer1[0], "conv3"):
            path = name.split(".")
            if path[0].startswith("layer") and path[2] in ("conv1", "bn1"):
                continue
        head = name.startswith(("dense.", "fc.", "output."))
        new = "head." + name.split(".")[1] if head else "backbone." + name
        state[new] = value.clone().reshape(1) if value.dim() == 0 else value.clone()
    return state
