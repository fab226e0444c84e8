"""A small convolutional network."""

from __future__ import annotations

from torch import nn


def network(classes: int) -> nn.Sequential:
    """Four strided convolutions and a linear layer; input 3×128×128."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 32, 64, 96):
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(channels * 4, classes))
