"""Image classifiers trained by mini-batches."""

from implicit_accel.data.mnist import ImageData, load_mnist, mnist_like
from implicit_accel.images.networks import FullyConnected, SmallCNN, TutorialCNN
from implicit_accel.images.task import ClassifierConfig, train_classifiers

__all__ = [
    "ClassifierConfig",
    "FullyConnected",
    "ImageData",
    "SmallCNN",
    "TutorialCNN",
    "load_mnist",
    "mnist_like",
    "train_classifiers",
]
