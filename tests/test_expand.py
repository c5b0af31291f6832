"""Layers as products of matrices."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import examples, param

import implicit_accel as ia
from implicit_accel.expand import (
    KERNELS,
    Product,
    collapse,
    expand,
    factorisations,
    is_product,
    matching_paths,
    path_of,
    weight_penalty,
)
from implicit_accel.user_module import run_file

expand_models: Any = run_file(Path(__file__).parents[1] / "docs/examples/expand_models.py", "")

KEY = jax.random.key(0)


def convolution(x, kernel, layout):
    """By loops over the kernel's places, without padding: rows, channels last."""
    kernel = np.asarray(kernel, float)
    if layout == "oi":
        kernel = kernel.transpose(2, 3, 1, 0)
    h, w = kernel.shape[:2]
    H, W = x.shape[0] - h + 1, x.shape[1] - w + 1
    out = np.zeros((H, W, kernel.shape[3]))
    for i in range(h):
        for j in range(w):
            out += x[i : i + H, j : j + W] @ kernel[i, j]
    return out


@settings(max_examples=examples(20), deadline=None)
@given(
    shape=st.sampled_from([(4, 3), (3, 4), (5, 5), (1, 6), (3, 2, 4, 5), (3, 3, 5, 2)]),
    depth=st.integers(2, 4), kernel=st.sampled_from(KERNELS), layout=st.sampled_from(["io", "oi"]),
    init=st.sampled_from(["identity", "balanced"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_starts_that_keep_the_function(shape, depth, kernel, layout, init, seed):
    if kernel == "pointwise" and (depth < 3 or (init == "balanced" and len(shape) == 4)):
        return
    with jax.enable_x64(True):
        leaf = np.random.default_rng(seed).standard_normal(shape)
        params = expand({"w": leaf}, "w", depth, init=init, kernel=kernel, layout=layout)
        assert len(params["w"].factors) == depth
        back = np.asarray(collapse(params)["w"])
    assert back.shape == shape
    if init == "identity":
        np.testing.assert_array_equal(back, leaf)
    else:
        np.testing.assert_allclose(back, leaf, atol=1e-13)


@pytest.mark.parametrize("layout", ["io", "oi"])
def test_kernels_are_convolutions_one_after_the_other(rng, layout):
    """A dense product is k × k, then 1 × 1; a pointwise one is 1 × 1, k × k, 1 × 1."""
    shape = (3, 2, 4, 5) if layout == "io" else (5, 4, 3, 2)
    x, leaf = rng.standard_normal((6, 6, 4)), rng.standard_normal(shape).astype(np.float32)
    made = [
        expand({"w": leaf}, "w", depth, init="gaussian", key=KEY, kernel=kernel, layout=layout)
        for kernel, depth in (("dense", 2), ("pointwise", 3), ("per_channel", 2))
    ]
    whole = [convolution(x, collapse(p)["w"], layout) for p in made]
    dense, pointwise, per_channel = (
        [np.asarray(F, float) for F in p["w"].factors] for p in made
    )  # fmt: skip
    spatial = dense[0].reshape(3, 2, 4, -1)
    np.testing.assert_allclose(
        whole[0], convolution(x, spatial, "io") @ dense[1], rtol=1e-4, atol=1e-5
    )
    first, middle, last = pointwise
    step = convolution(x @ first, middle.reshape(3, 2, *middle.shape[1:]), "io") @ last
    np.testing.assert_allclose(whole[1], step, rtol=1e-4, atol=1e-5)
    # Each input channel has filters of its own, which the next factor mixes (DO-Conv).
    places, mixed = per_channel
    filters = sum(
        convolution(x[..., [c]], places[c].reshape(3, 2, 1, -1), "io") @ mixed[c] for c in range(4)
    )
    np.testing.assert_allclose(whole[2], filters, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_pytorch(rng):
    """The same weights as a parametrisation of torch.nn.Linear, by its own autograd."""
    torch = pytest.importorskip("torch")
    nn: Any = torch.nn

    class Stack(nn.Module):
        def forward(self, first, second, third):
            return first @ second @ third

        def right_inverse(self, _):
            return factors

    W, X, y = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), (7, 4), (7, 3)))
    params = expand({"W": W}, "W", 3, init="gaussian", key=KEY)
    factors = [torch.tensor(np.array(F)) for F in params["W"].factors]
    layer = nn.Linear(3, 4, bias=False)
    nn.utils.parametrize.register_parametrization(layer, "weight", Stack())
    loss = ((torch.tensor(X) @ layer.weight - torch.tensor(y)) ** 4).mean()
    loss.backward()
    ours = jax.grad(lambda p: jnp.mean((X @ collapse(p)["W"] - y) ** 4))(params)
    originals = layer.parametrizations["weight"]
    theirs = [getattr(originals, f"original{i}").grad.numpy() for i in range(3)]
    for own, other in zip(ours["W"].factors, theirs, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)


def test_training_factors_is_training_layers_by_hand(rng):
    """Through 50 steps of momentum: the function, its collapse, and two layers in NumPy."""
    X, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    with jax.enable_x64(True):
        W = rng.standard_normal((3, 2))
        params: Any = expand({"W": jnp.asarray(W), "b": jnp.zeros(2)}, "W", 2)
        transformation = optax.sgd(0.05, momentum=0.9)
        state = transformation.init(params)

        def loss(p):
            own = collapse(p)
            return jnp.mean((X @ own["W"] + own["b"] - y) ** 2) / 2

        A, B = (np.asarray(F) for F in params["W"].factors)
        b, velocity = np.zeros(2), [0.0, 0.0, 0.0]
        for _ in range(50):
            updates, state = transformation.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
            r = (X @ A @ B + b - y) / y.size
            slopes = [X.T @ r @ B.T, (X @ A).T @ r, r.sum(axis=0)]
            velocity = [0.9 * v + g for v, g in zip(velocity, slopes, strict=True)]
            A, B, b = (p - 0.05 * v for p, v in zip((A, B, b), velocity, strict=True))
        np.testing.assert_allclose(params["W"].factors[0], A, atol=1e-12)
        end = collapse(params)
        np.testing.assert_allclose(end["W"], A @ B, atol=1e-12)
        np.testing.assert_allclose(end["b"], b, atol=1e-12)


def test_any_pytree_and_any_choice():
    eqx: Any = pytest.importorskip("equinox")
    mlp = eqx.nn.MLP(3, 2, 5, 2, key=KEY)
    assert matching_paths(mlp, r"layers\.\d+\.weight") == (
        "layers.0.weight", "layers.1.weight", "layers.2.weight",
    )  # fmt: skip
    large = expand(mlp, lambda path, leaf: "weight" in path and leaf.size > 12, 2)
    assert isinstance(large.layers[1].weight, Product)
    assert isinstance(large.layers[2].weight, jax.Array)
    x = jnp.arange(3.0)
    np.testing.assert_allclose(collapse(large)(x), mlp(x), rtol=1e-5)
    assert jax.tree.structure(collapse(large)) == jax.tree.structure(mlp)
    assert collapse(mlp) is not None


def test_wider_factors_and_a_base(rng):
    W = rng.standard_normal((3, 4)).astype(np.float32)
    wide = expand({"W": W}, "W", 3, init="identity", key=KEY, width=9)
    assert [F.shape for F in wide["W"].factors] == [(3, 9), (9, 9), (9, 4)]
    np.testing.assert_allclose(collapse(wide)["W"], W, atol=1e-6)
    low = expand({"W": W}, "W", 2, init="product", key=KEY, width=1, keep_base=True)
    np.testing.assert_array_equal(collapse(low)["W"], W)
    assert [F.shape for F in low["W"].factors] == [(3, 1), (1, 4)]


@pytest.mark.parametrize("init", ["gaussian", "product"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_random_factors_have_the_leaf_s_mean_square(rng, init, kernel):
    leaf = 0.3 * rng.standard_normal((3, 3, 16, 24)).astype(np.float32)
    sizes = []
    for seed in range(20):
        made = expand({"w": leaf}, "w", 3, init=init, key=jax.random.key(seed), kernel=kernel)
        sizes.append(float(np.mean(np.square(collapse(made)["w"]))))
    assert np.mean(sizes) == pytest.approx(np.mean(leaf**2), rel=0.25)
    given_std = expand({"w": leaf}, "w", 2, init="gaussian", key=KEY, std=0.5)
    assert np.std(given_std["w"].factors[1]) == pytest.approx(0.5, rel=0.2)


def test_weight_decay_is_one_of_two_penalties(rng):
    W = rng.standard_normal((4, 3)).astype(np.float32)
    params = expand({"W": W, "b": np.ones(3, np.float32)}, "W", 3)
    s = np.linalg.svd(W, compute_uv=False)
    assert float(weight_penalty(params, "product")) == pytest.approx((s**2).sum() / 2 + 1.5)
    # Balanced factors have the least squares of all: N/2 times the sum of s^(2/N).
    expected = 3 / 2 * (s ** (2 / 3)).sum() + 1.5
    assert float(weight_penalty(params, "factors")) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ia.UserError, match="product, factors"):
        weight_penalty(params, "both")


def test_what_became_of_the_factors():
    W = np.diag([2.0, 1.0, 1.0]).astype(np.float32)
    (balanced,) = factorisations(expand({"layer": [W]}, r"layer\.0", 2))
    assert balanced.path == "layer.0"
    assert balanced.imbalance == pytest.approx(0, abs=1e-6)
    assert balanced.effective_rank == pytest.approx(16 / 6, rel=1e-5)
    (uneven,) = factorisations(expand({"layer": [W]}, r"layer\.0", 2, init="identity"))
    # ‖WᵀW − I‖ over ‖W‖²
    assert uneven.imbalance == pytest.approx(3 / 6, rel=1e-5)
    assert factorisations({"w": W}) == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"where": "nothing"}, "matches none of the parameters: W, b, k, n"),
        ({"where": "("}, "not a regular expression"),
        ({"where": "b"}, r"b \(\(4,\)\) is no matrix or kernel"),
        ({"where": "n"}, "no matrix or kernel of floating numbers"),
        ({"depth": 1}, "two factors or more"),
        ({"depth": 2.0}, "two factors or more"),
        ({"init": "zero"}, "choose from identity, balanced, gaussian, product"),
        ({"kernel": "sparse"}, "choose from dense, per_channel, pointwise"),
        ({"layout": "hwio"}, "choose from io, oi"),
        ({"init": "gaussian"}, "give a key"),
        ({"width": 0}, "whole number >= 1"),
        ({"width": 2}, "cannot hold it"),
        ({"width": 5}, "would have directions that never move; give at most 3"),
        ({"init": "identity", "width": 3, "key": KEY}, "cannot pass its 4 outputs"),
        ({"std": 0.1}, "std is of init gaussian"),
        ({"std": -1, "init": "gaussian", "key": KEY}, "a number above 0"),
        ({"where": "k", "kernel": "pointwise"}, "depth 3 or more"),
        (
            {"where": "k", "kernel": "pointwise", "depth": 3},
            "start from identity",
        ),
    ],
)
def test_bad_requests_are_explained(arguments, message):
    params = {
        "W": np.ones((3, 4), np.float32), "b": np.ones(4, np.float32),
        "k": np.ones((2, 2, 3, 3), np.float32), "n": np.ones((2, 2), int),
    }  # fmt: skip
    with pytest.raises(ia.UserError, match=message):
        expand(params, **{"where": "W", **arguments})


@pytest.mark.parametrize(
    "name", [param(n, nightly=n in ("cnn", "resnet", "transformer")) for n in expand_models.WHERE]
)
def test_six_models_compute_what_they_did_through_training(name):
    """Gradients are those of the original by the chain rule, dA = G Bᵀ and dB = Aᵀ G."""
    task, where = getattr(expand_models, name)(), expand_models.WHERE[name]
    data = jax.tree.map(lambda a: a[:16], task.data)
    plain = task.init(KEY)
    params = expand(plain, where, 2, init="balanced")
    assert float(task.loss(collapse(params), data)) == pytest.approx(
        float(task.loss(plain, data)), rel=1e-4
    )
    slope = jax.jit(jax.grad(lambda p: task.loss(collapse(p), data)))
    direct = jax.jit(jax.grad(lambda p: task.loss(p, data)))
    chosen = matching_paths(plain, where)
    for _ in range(3):
        whole, leaves = direct(collapse(params)), {}
        for keys, leaf in jax.tree_util.tree_leaves_with_path(whole):
            leaves[path_of(keys)] = np.asarray(leaf)
        found = slope(params)
        products = {
            path_of(keys): (node, own)
            for (keys, node), own in zip(
                jax.tree_util.tree_leaves_with_path(params, is_leaf=is_product),
                jax.tree.leaves(found, is_leaf=is_product), strict=True,
            )
            if is_product(node)
        }  # fmt: skip
        assert tuple(products) == chosen
        for path, (node, own) in products.items():
            A, B = (np.asarray(F) for F in node.factors)
            G = leaves[path].reshape(-1, leaves[path].shape[-1])
            scale = np.abs(G).max() + 1e-12
            np.testing.assert_allclose(own.factors[0], G @ B.T, atol=2e-5 * scale * np.abs(B).sum())
            np.testing.assert_allclose(own.factors[1], A.T @ G, atol=2e-5 * scale * np.abs(A).sum())
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, found)
    assert jax.tree.structure(collapse(params)) == jax.tree.structure(plain)
    assert jax.tree.map(np.shape, collapse(params)) == jax.tree.map(np.shape, plain)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("init", ["balanced", "gaussian", "product"])
def test_low_precision_is_computed_in_single(dtype, init):
    leaf = (300 * np.random.default_rng(0).standard_normal((6, 6))).astype(jnp.dtype(dtype))
    made = expand({"w": jnp.asarray(leaf)}, "w", init=init, key=KEY)
    assert {F.dtype for F in made["w"].factors} == {jnp.dtype(dtype)}
    back = np.asarray(collapse(made)["w"], float)
    assert np.isfinite(back).all()
    if init == "balanced":
        np.testing.assert_allclose(back, leaf.astype(float), rtol=0.1, atol=20)


def test_what_would_never_move_or_is_expanded_already_is_refused():
    with pytest.raises(ia.UserError, match="w is zero"):
        expand({"w": np.zeros((3, 2), np.float32)}, "w")
    once = expand({"w": np.ones((3, 2), np.float32)}, "w")
    with pytest.raises(ia.UserError, match="a product already"):
        expand(once, "w")
    bad: Any = 0
    with pytest.raises(ia.UserError, match="give one that jax"):
        expand({"w": np.ones((3, 2), np.float32)}, "w", init="gaussian", key=bad)
    with pytest.raises(ia.UserError, match="not a regular expression"):
        expand({"w": np.ones((3, 2), np.float32)}, b"w")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ia.UserError, match=r"must take \(path, leaf\)"):
        expand({"w": np.ones((3, 2), np.float32)}, lambda _: True)  # pyright: ignore[reportArgumentType]
