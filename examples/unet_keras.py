"""The demo's U-Net in Keras. `unet_torch.py` is its twin, line by line."""

import keras
from common import WIDTHS, initial_weights
from keras import KerasTensor, layers
from scenes import CLASSES, SIZE


def block(x: KerasTensor, width: int, name: str) -> KerasTensor:
    """3x3 convolution, batch normalisation, ReLU: (B, H, W, channels) to (B, H, W, width)."""
    x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)(x)
    # PyTorch's defaults, which Keras calls by 1 - 0.1 and which differ from its own 0.99 and 1e-3
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x)


def unet() -> keras.Model:
    """Down by max pooling, up by repeating pixels; every level adds its scores of the classes."""
    image = keras.Input((SIZE, SIZE, 1))
    levels = [block(image, WIDTHS[0], "down.0")]
    for level, width in enumerate(WIDTHS[1:], start=1):
        levels.append(block(layers.MaxPooling2D(2)(levels[-1]), width, f"down.{level}"))
    x = levels.pop()
    scores = score(x, len(levels))
    for level in reversed(range(len(levels))):
        x = block(layers.Concatenate()([levels[level], twice(x)]), WIDTHS[level], f"up.{level}")
        scores = layers.Add()([score(x, level), twice(scores)])
    net = keras.Model(image, scores)
    load_initial_weights(net)
    return net


def score(x: KerasTensor, level: int) -> KerasTensor:
    """A level's scores of the classes; biases start at 0, as Keras has it."""
    return layers.Conv2D(CLASSES, 1, name=f"score.{level}")(x)


def twice(x: KerasTensor) -> KerasTensor:
    """Every pixel becomes 2x2 pixels."""
    return layers.UpSampling2D(2, interpolation="nearest")(x)


def load_initial_weights(net: keras.Model) -> None:
    """The weights that both frameworks start from; (out, in, H, W) becomes (H, W, in, out)."""
    for name, kernel in initial_weights().items():
        net.get_layer(name).kernel.assign(kernel.transpose(2, 3, 1, 0))
