"""Slow, obvious implementations in float64 numpy, written from the definitions."""

from __future__ import annotations

import numpy as np

from implicit_accel.linear import Layers, Problem


def random_problem(rng, n=30, d=4, k=1, mean=0.0) -> Problem:
    X = rng.standard_normal((n, d)) + mean
    Y = X @ rng.standard_normal((d, k)) + 0.3 * rng.standard_t(4, (n, k)) + mean
    return Problem.from_arrays(X, Y)


def random_layers(rng, d, hidden, k, *, bias=False, std=0.5) -> Layers:
    widths = [d, *hidden, k]
    weights = tuple(
        std * rng.standard_normal((widths[j + 1], widths[j])) for j in range(len(widths) - 1)
    )
    biases = tuple(std * rng.standard_normal(W.shape[0]) for W in weights) if bias else ()
    return Layers(weights, biases)


def loss_and_gradient(layers, X, Y, p, *, scale, activation="identity"):
    """Backpropagation by hand, layer by layer."""
    weights, biases = layers
    inputs, h = [], X
    for j, W in enumerate(weights):
        inputs.append(h)
        z = h @ W.T + (biases[j] if biases else 0.0)
        last = j == len(weights) - 1
        h = z if last or activation == "identity" else np.maximum(z, 0)
    r = h - Y
    loss = scale * np.sum(np.abs(r) ** p) / r.size
    delta = scale * p * np.sign(r) * np.abs(r) ** (p - 1) / r.size
    weight_gradients, bias_gradients = [], []
    for j in reversed(range(len(weights))):
        weight_gradients.insert(0, delta.T @ inputs[j])
        bias_gradients.insert(0, delta.sum(axis=0))
        delta = delta @ weights[j]
        if j > 0 and activation == "relu":
            delta = delta * (inputs[j] > 0)
    return loss, Layers(tuple(weight_gradients), tuple(bias_gradients) if biases else ())


def gradient_descent(
    layers, X, Y, p, *, scale, learning_rate, num_steps, activation="identity", weight_decay=0.0
):
    """Losses 0 … T and the final layers of plain gradient descent."""
    losses = []
    for step in range(num_steps + 1):
        loss, gradient = loss_and_gradient(layers, X, Y, p, scale=scale, activation=activation)
        losses.append(loss)
        if step < num_steps:
            layers = Layers(
                *(
                    tuple(
                        a - learning_rate * (g + weight_decay * a)
                        for a, g in zip(part, gradients, strict=True)
                    )
                    for part, gradients in zip(layers, gradient, strict=True)
                )
            )
    return np.array(losses), layers
