"""Classifiers against PyTorch, and what a run must not depend on."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from marks import param

from implicit_accel.data.mnist import mnist_like
from implicit_accel.engine.layout import batch_order
from implicit_accel.errors import UserError
from implicit_accel.images import task
from implicit_accel.images.networks import (
    REGULARISED,
    FullyConnected,
    Network,
    SmallCNN,
    TutorialCNN,
    half_square_of_product,
)
from implicit_accel.images.task import (
    FULLY_CONNECTED,
    SMALL_CNN,
    ClassifierConfig,
    ImageSweep,
    objective,
    train_classifiers,
)
from implicit_accel.linear.networks import Layers
from implicit_accel.optimizers import Optimizer

DATA = mnist_like(num_train=80, num_test=130)


def dropout_mask(network, seed, step, num_images):
    key = jax.random.fold_in(jax.random.key(seed), step)
    return task.dropout_mask(network, key, num_images)


# Small networks for what does not depend on the size. 5 steps make an epoch.
CNN = TutorialCNN(channels=(2, 3), hidden_width=6)
DEEP_CNN = replace(CNN, overparameterised=True)
FC = FullyConnected("balanced", (12, 11))  # compiles in a quarter of the time
# The weight decay is large, so that what it acts on shows.
SMALL = ClassifierConfig(
    CNN, num_steps=12, batch_size=8, num_train=45, num_validation=30, window=1,
    weight_decay=0.1, precision="float64",
)  # fmt: skip


def config_for(network: Network, **changes) -> ClassifierConfig:
    """Few steps of the way in which the network is trained."""
    base = {FullyConnected: FULLY_CONNECTED, SmallCNN: SMALL_CNN}.get(type(network), SMALL)
    taken = ("num_steps", "batch_size", "num_train", "num_validation", "window", "precision")
    few: dict[str, Any] = {name: getattr(SMALL, name) for name in taken}
    return replace(base, **few | {"network": network} | changes)


def one_run(config, rate=0.05, std=0.1, seed=3, **options):
    stds = [std] if config.network.has_std else None
    results = train_classifiers(
        DATA, config, learning_rates=[rate], stds=stds, seeds=[seed], **options
    )
    return results.isel(learning_rate=0, init_std=0, seed=0)


# --- the same training in PyTorch ---


def torch_training(config: ClassifierConfig, rate: float, std: float, seed: int):
    """Losses, regularised losses, and (test, validation) errors at the end."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    dtype = getattr(torch, config.precision)
    network = config.network
    drawn = network.draw(std, seed)
    leaves = [
        torch.tensor(np.asarray(a), dtype=dtype, requires_grad=True) for a in jax.tree.leaves(drawn)
    ]
    parameters = jax.tree.unflatten(jax.tree.structure(drawn), leaves)

    def linear(layer, h):
        for W in layer.factors:
            h = functional.linear(h, W)
        return h + layer.bias

    def forward(images, keep=None):
        h = torch.tensor(images, dtype=dtype)[:, None] / 255
        h = (h - config.pixel_mean) / config.pixel_std
        if isinstance(network, FullyConnected):
            h = h.flatten(1)
            for j, (W, b) in enumerate(zip(*parameters, strict=True)):
                h = functional.linear(h if j == 0 else functional.relu(h), W, b)
            return h
        for layer in parameters.convolutions:
            kernel = layer.kernel.permute(3, 2, 0, 1)
            h = functional.conv2d(h, kernel, layer.bias, padding=kernel.shape[-1] // 2)
            h = functional.max_pool2d(functional.relu(h), 2)
        h = linear(parameters.dense[0], h.permute(0, 2, 3, 1).flatten(1))
        for layer in parameters.dense[1:]:
            h = functional.relu(h)
            if keep is not None:
                h = h * torch.tensor(keep) / (1 - network.dropout)
            h = linear(layer, h)
        return h

    def penalty():
        if not isinstance(network, TutorialCNN) or network.regularised == "none":
            return torch.zeros((), dtype=dtype)
        terms = []
        for layer in parameters.dense:
            matrices = {
                "factors": list(layer.factors),
                "first": [layer.factors[0]],
                "product": [torch.linalg.multi_dot([*layer.factors[::-1], torch.eye(
                    layer.factors[0].shape[1], dtype=dtype)])],
            }[network.regularised]  # fmt: skip
            terms += [(a**2).sum() for a in (*matrices, layer.bias)]
        return sum(terms) / 2

    momentum = 0.9 if config.optimizer.name == "momentum" else 0.0
    optimizer = torch.optim.SGD(leaves, lr=rate, momentum=momentum)
    images = DATA.train_images[config.num_validation :]
    labels = DATA.train_labels[config.num_validation :].astype(int)
    num_train = config.num_train or 0
    epoch_steps = num_train // config.batch_size
    losses, sums = [], []
    for step in range(config.num_steps):
        epoch, within = divmod(step, epoch_steps)
        order = batch_order(seed, epoch, num_train)
        chosen = order[within * config.batch_size :][: config.batch_size]
        keep = None
        if network.dropout:
            keep = np.asarray(dropout_mask(network, seed, step, config.batch_size))
        loss = functional.cross_entropy(forward(images[chosen], keep), torch.tensor(labels[chosen]))
        total = loss + config.weight_decay * penalty()
        for group in optimizer.param_groups:
            group["lr"] = rate * config.rate_decay**epoch
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(loss.item())
        sums.append(total.item())

    def error(images, labels):
        with torch.no_grad():
            return np.mean(forward(images).argmax(1).numpy() != labels)

    held_out = slice(config.num_validation)
    errors = (
        error(DATA.test_images, DATA.test_labels),
        error(DATA.train_images[held_out], DATA.train_labels[held_out]),
    )
    return np.array(losses), np.array(sums), errors


def assert_follows_torch(config, rtol, rate=0.05, std=0.1, seed=3):
    losses, sums, errors = torch_training(config, rate, std, seed)
    run = one_run(config, rate, std, seed)
    assert np.ptp(losses) > 1e-3
    np.testing.assert_allclose(run.cross_entropy, losses, rtol=rtol)
    np.testing.assert_allclose(run.regularised_loss, sums, rtol=rtol)
    found = (float(run.test_error[-1]), float(run.validation_error[-1]))
    np.testing.assert_allclose(found, errors, rtol=1e-6)


@pytest.mark.parametrize(
    "network",
    [
        CNN,
        *(param(replace(DEEP_CNN, regularised=reading)) for reading in REGULARISED),
        param(replace(DEEP_CNN, regularised="product", dropout=0.0)),
        param(SmallCNN((2, 3), hidden_width=None)),
        SmallCNN((2, 3, 4), hidden_width=5),
        param(FullyConnected()),
        FullyConnected("balanced"),
    ],
    ids=str,
)
def test_every_network_follows_pytorch(network):
    assert_follows_torch(config_for(network), rtol=1e-8, std=0.2)


@pytest.mark.parametrize(
    "network", [param(TutorialCNN()), param(TutorialCNN(True, "product"))], ids=str
)
def test_the_networks_in_full_follow_pytorch(network):
    config = config_for(network, num_steps=3, precision="float32")
    assert_follows_torch(config, rtol=1e-4, rate=0.01)


# --- what is regularised ---


@pytest.mark.parametrize("reading", [param(r, nightly=r != "product") for r in REGULARISED])
def test_the_first_penalty_in_closed_form(reading):
    network = replace(DEEP_CNN, regularised=reading)
    run = one_run(config_for(network), std=0.3)
    dense = network.draw(0.3, 3).dense
    kept = {
        "factors": [W for layer in dense for W in layer.factors],
        "first": [layer.factors[0] for layer in dense],
        "product": [layer.factors[1] @ layer.factors[0] for layer in dense],
    }
    biases = 0.1**2 * (6 + 10)
    squares = {name: sum(np.sum(W**2) for W in each) + biases for name, each in kept.items()}
    difference = float(run.regularised_loss[0] - run.cross_entropy[0])
    assert difference == pytest.approx(0.05 * squares.get(reading, 0), rel=1e-10)
    assert float(run.end_to_end_penalty[0]) == pytest.approx(squares["product"] / 2, rel=1e-10)


@pytest.mark.parametrize(("k", "h", "d"), [(3, 5, 11), (1, 1, 1), (6, 2, 3)])
def test_the_square_of_a_product_without_it(k, h, d):
    """Value and gradients, against the product itself."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        factors = rng.normal(size=(h, d)), rng.normal(size=(k, h))

        def slow(first, second):
            return 3 * jnp.sum((second @ first) ** 2) / 2

        def fast(first, second):
            return 3 * half_square_of_product(first, second)

        expected = jax.value_and_grad(slow, (0, 1))(*factors)
        found = jax.value_and_grad(fast, (0, 1))(*factors)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), expected, found)


def test_readings_are_one_without_products():
    drawn = CNN.draw(np.nan, 0)
    expected = sum(np.sum(layer.factors[0] ** 2) + np.sum(layer.bias**2) for layer in drawn.dense)
    for reading in REGULARISED:
        found = replace(CNN, regularised=reading).penalty(drawn)
        assert found == pytest.approx(expected / 2 if reading != "none" else 0, rel=1e-5)


# --- starts ---


def test_the_tutorial_s_start():
    drawn = TutorialCNN().draw(0.5, 0)
    first, second = drawn.dense
    assert [layer.kernel.shape for layer in drawn.convolutions] == [(5, 5, 1, 32), (5, 5, 32, 64)]
    assert [W.shape for layer in drawn.dense for W in layer.factors] == [(512, 3136), (10, 512)]
    law = scipy.stats.truncnorm(-2, 2, scale=0.1)
    for W in (drawn.convolutions[1].kernel, first.factors[0], second.factors[0]):
        assert scipy.stats.kstest(W.ravel()[:50_000], law.cdf).pvalue > 0.01
        assert abs(W).max() <= 0.2
    assert not drawn.convolutions[0].bias.any()
    for bias in (drawn.convolutions[1].bias, first.bias, second.bias):
        assert (bias == 0.1).all()


def test_overparameterised_network_starts_from_the_original_one():
    original, deep = CNN.draw(np.nan, 5), DEEP_CNN.draw(0.4, 5)
    assert [W.shape for layer in deep.dense for W in layer.factors[1:]] == [(6, 6), (10, 10)]
    cut = deep._replace(dense=tuple(d._replace(factors=d.factors[:1]) for d in deep.dense))
    for a, b in zip(jax.tree.leaves(original), jax.tree.leaves(cut), strict=True):
        np.testing.assert_array_equal(a, b)
    for layer, twice in zip(deep.dense, DEEP_CNN.draw(0.8, 5).dense, strict=True):
        np.testing.assert_allclose(twice.factors[1], 2 * layer.factors[1])
    # 512 × 512 and 10 × 10 of them: 15 % more, as the paper says
    sizes = [
        sum(a.size for a in jax.tree.leaves(TutorialCNN(deep).draw(0.1, 0)))
        for deep in (False, True)
    ]
    assert sizes[1] - sizes[0] == 512**2 + 10**2
    assert 0.15 < sizes[1] / sizes[0] - 1 < 0.16


def test_small_cnn_starts_like_pytorch():
    torch = pytest.importorskip("torch")
    drawn = SmallCNN().draw(np.nan, 0)
    layers = [
        *(torch.nn.Conv2d(a, b, 3) for a, b in ((1, 4), (4, 8), (8, 16))),
        *(torch.nn.Linear(a, b) for a, b in ((144, 32), (32, 10))),
    ]
    ours = [*drawn.convolutions, *((layer.factors[0], layer.bias) for layer in drawn.dense)]
    shares = []
    for (weight, bias), theirs in zip(ours, layers, strict=True):
        assert weight.size == theirs.weight.numel()
        assert bias.shape == tuple(theirs.bias.shape)
        bound = 1 / np.sqrt(theirs.weight[0].numel())
        for a, b in ((weight, theirs.weight), (bias, theirs.bias)):
            assert abs(a).max() <= bound
            assert float(b.detach().abs().max()) <= bound
        shares += [weight.ravel() / bound, bias / bound]
    law = scipy.stats.uniform(-1, 2)
    assert scipy.stats.kstest(np.concatenate(shares), law.cdf).pvalue > 0.01


def test_balanced_start_leaves_ten_hidden_units():
    """The others have no weights on either side, and a ReLU gives them no gradient."""
    config = config_for(FullyConnected("balanced"))
    drawn = config.network.draw(0.5, 0)
    assert isinstance(drawn, Layers)
    for below, above in zip(drawn.weights, drawn.weights[1:], strict=False):
        np.testing.assert_allclose(above.T @ above, below @ below.T, atol=1e-12)
    pixels = task.scale_pixels(DATA.train_images, np.float32)
    gradient = jax.grad(lambda p: objective(config, p, pixels, DATA.train_labels)[0])(drawn)
    assert np.abs(gradient.weights[0][:10]).max() > 0
    for part, j in (("weights", 0), ("biases", 0), ("weights", 1), ("biases", 1)):
        assert not np.asarray(getattr(gradient, part)[j])[10:].any()


# --- what a run must not depend on ---


@pytest.mark.nightly
@pytest.mark.parametrize("network", [param(DEEP_CNN), FullyConnected("pytorch", (5,))], ids=str)
def test_stepped_together_or_one_at_a_time(network):
    config = config_for(network)
    grid = {
        "learning_rates": [0.01, 0.1],
        "stds": [0.1, 0.2] if network.has_std else None,
        "seeds": [0, 4],
    }
    apart = train_classifiers(DATA, config, **grid, largest_block=1)
    together = train_classifiers(DATA, config, **grid, largest_block=3)
    for name in apart:
        np.testing.assert_allclose(together[name], apart[name], rtol=1e-9, err_msg=str(name))
    alone = one_run(config, rate=0.1, std=0.2, seed=4)
    picked = apart.isel(learning_rate=1, init_std=-1, seed=1)
    np.testing.assert_allclose(alone.cross_entropy, picked.cross_entropy, rtol=1e-9)
    # Seeds, rates and standard deviations all matter.
    assert len(np.unique(apart.cross_entropy[..., -1])) == apart.cross_entropy[..., -1].size


def test_cut_into_segments(monkeypatch):
    whole = one_run(SMALL)
    monkeypatch.setattr("implicit_accel.engine.train.segment_length", lambda *_, **__: 3)
    monkeypatch.setattr(task, "_EVALUATION_BATCH", 7)
    done = []
    cut = one_run(SMALL, progress=lambda *now: done.append(now))
    for name in whole:
        np.testing.assert_allclose(cut[name], whole[name], rtol=1e-12, err_msg=str(name))
    assert len(done) == 5
    assert done == sorted(done)
    assert done[-1] == (12, 12)


@pytest.mark.nightly
def test_killed_between_segments_it_goes_on_to_the_same_bits(monkeypatch, tmp_path):
    monkeypatch.setattr("implicit_accel.engine.train.segment_length", lambda *_, **__: 3)
    grid: dict[str, Any] = {"learning_rates": [0.01, 0.1], "stds": [0.1], "seeds": [0, 3]}
    whole = train_classifiers(DATA, config_for(DEEP_CNN), **grid)
    calls = []

    def stop(*_):
        calls.append(_)
        if len(calls) == 3:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"folder": tmp_path / "run", "checkpoint_every": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train_classifiers(DATA, config_for(DEEP_CNN), **grid, **options, progress=stop)
    resumed = train_classifiers(DATA, config_for(DEEP_CNN), **grid, **options)
    assert resumed.identical(whole)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "options", [{"memory_limit": 1}, param({"devices": jax.local_devices()[:2]})]
)
def test_memory_limits_and_devices_do_not_matter(options):
    grid: dict[str, Any] = {"learning_rates": [0.01, 0.1], "seeds": [0, 3, 4]}
    plain = train_classifiers(DATA, config_for(SmallCNN((2, 3))), **grid)
    other = train_classifiers(DATA, config_for(SmallCNN((2, 3))), **grid, **options)
    for name in plain:
        np.testing.assert_array_equal(other[name], plain[name], err_msg=str(name))


@pytest.mark.parametrize("network", [param(DEEP_CNN), FC], ids=str)
def test_a_diverged_run_is_recorded_and_spreads_nowhere(network):
    config = config_for(network)
    stable = train_classifiers(DATA, config, learning_rates=[0.01], stds=[0.1])
    mixed = train_classifiers(
        DATA, config, learning_rates=[1e3, 0.01, 1e30], stds=[0.1], largest_block=3
    )
    np.testing.assert_allclose(mixed.divergence_step.sel(learning_rate=0.01), np.nan)
    for name in stable:
        np.testing.assert_allclose(
            mixed[name].sel(learning_rate=0.01), stable[name][0], rtol=1e-9, err_msg=str(name)
        )
    for rate in (1e3, 1e30):
        run = mixed.sel(learning_rate=rate).isel(init_std=0, seed=0)
        step = int(run.divergence_step)
        assert 1 <= step < 12
        assert np.isfinite(run.cross_entropy[:step]).all()
        assert np.isinf(run.cross_entropy[step:]).all()
        assert np.isinf(run.regularised_loss[step:]).all()
        assert float(run.test_error[-1]) == float(run.end_to_end_penalty[-1]) == np.inf
    for name in ("cross_entropy", "regularised_loss", "test_error", "end_to_end_penalty"):
        assert not np.isnan(mixed[name]).any()


def test_a_last_step_that_overflows_has_no_error():
    run = one_run(
        config_for(FullyConnected(), num_steps=1, precision="float32"), rate=3e38, std=1.0
    )
    assert np.isfinite(run.cross_entropy).all()
    assert float(run.test_error[-1]) == float(run.end_to_end_penalty[-1]) == np.inf


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 50), n=st.integers(1, 100))
def test_an_epoch_s_order(seed, epoch, n):
    order = batch_order(seed, epoch, n)
    assert sorted(order) == list(range(n))
    np.testing.assert_array_equal(order, batch_order(seed, epoch, n))


def test_orders_and_masks_differ():
    orders = {tuple(batch_order(s, e, 50)) for s in range(3) for e in range(3)}
    assert len(orders) == 9
    masks = [np.asarray(dropout_mask(CNN, s, t, 200)) for s in range(3) for t in range(3)]
    assert len({mask.tobytes() for mask in masks}) == 9
    assert abs(np.mean(masks) - 0.5) < 0.02
    kept = np.mean(dropout_mask(replace(CNN, dropout=0.2), 0, 0, 2000))
    assert abs(kept - 0.8) < 0.02
    with jax.enable_x64(True):
        np.testing.assert_array_equal(dropout_mask(CNN, 1, 2, 200), masks[5])


# --- records ---


def test_windows_and_evaluations():
    fine = one_run(SMALL)
    coarse = one_run(replace(SMALL, window=5))
    assert coarse.step.values.tolist() == [5, 10, 12]
    assert coarse.evaluation_step.values.tolist() == [0, 5, 10, 12]
    for name in ("cross_entropy", "regularised_loss"):
        losses = fine[name].values
        means = [losses[:5].mean(), losses[5:10].mean(), losses[10:].mean()]
        np.testing.assert_allclose(coarse[name], means, rtol=1e-12)
    # Evaluation is without dropout: the network's errors at the start, by its own outputs.
    with jax.enable_x64(True):
        pixels = task.scale_pixels(DATA.test_images, np.float64)
        outputs = CNN.logits(CNN.draw(np.nan, 3), pixels)
    error = np.mean(np.argmax(outputs, axis=1) != DATA.test_labels)
    assert float(fine.test_error[0]) == pytest.approx(error)


@pytest.mark.parametrize("reading", ["product", param("none")])
def test_losses_of_the_fixed_images_against_numpy(reading, monkeypatch):
    """At the start, of the first images to train with, without dropout; in chunks that fill up."""
    monkeypatch.setattr(task, "_EVALUATION_BATCH", 7)
    network = replace(DEEP_CNN, regularised=reading)
    config = config_for(network, num_fixed=17, evaluate_every=4, pixel_mean=0.1, pixel_std=0.3)
    run = one_run(config, std=0.3)
    assert run.evaluation_step.values.tolist() == [0, 4, 8, 12]
    drawn = network.draw(0.3, 3)
    images = DATA.train_images[30:47].astype(float)
    labels = DATA.train_labels[30:47].astype(int)
    with jax.enable_x64(True):
        outputs = np.asarray(network.logits(drawn, (images / 255 - 0.1) / 0.3))
    rows = np.log(np.sum(np.exp(outputs), axis=1)) - outputs[np.arange(17), labels]
    assert float(run.fixed_cross_entropy[0]) == pytest.approx(rows.mean(), rel=1e-10)
    penalty = float(run.end_to_end_penalty[0]) if reading == "product" else 0.0
    found = float(run.fixed_regularised_loss[0])
    assert found == pytest.approx(rows.mean() + 0.1 * penalty, rel=1e-10)
    # What is evaluated changes nothing of the training.
    plain = one_run(replace(config, num_fixed=0, evaluate_every=None), std=0.3)
    assert "fixed_cross_entropy" not in plain
    np.testing.assert_allclose(run.cross_entropy, plain.cross_entropy, rtol=1e-12)


def test_losses_of_the_fixed_images_of_a_diverged_run():
    run = one_run(config_for(FC, num_fixed=10), rate=1e30)
    assert np.isfinite(run.fixed_cross_entropy[0])
    for name in ("fixed_cross_entropy", "fixed_regularised_loss"):
        assert float(run[name][-1]) == np.inf


def test_labels_and_attributes():
    results = train_classifiers(
        DATA,
        config_for(FC),
        learning_rates=[0.1, 0.2],
        stds=[0.3],
        seeds=[1, 2, 3],
    )
    assert results.cross_entropy.dims == ("learning_rate", "init_std", "seed", "step")
    assert results.test_error.dims[-1] == "evaluation_step"
    assert results.divergence_step.shape == (2, 1, 3)
    assert results.attrs["is_stand_in"] == 1
    assert results.attrs["dataset_fingerprint"] == DATA.fingerprint
    assert str(results.network.values) == "fully connected, balanced"
    without = train_classifiers(
        DATA, config_for(FullyConnected("pytorch", (5,)), num_validation=0), learning_rates=[0.1]
    )
    assert np.isnan(without.init_std.values).all()
    assert "validation_error" not in without


@pytest.mark.parametrize("preset", [ClassifierConfig(), FULLY_CONNECTED, SMALL_CNN])
def test_presets_are_ten_epochs_of_mnist(preset):
    left = 60_000 - preset.num_validation
    assert preset.num_steps == 10 * (left // preset.batch_size)


def test_small_cnn_learns_the_stand_in():
    config = replace(SMALL_CNN, num_steps=240, batch_size=64, window=20)
    results = train_classifiers(
        mnist_like(num_train=3000, num_test=300), config, learning_rates=[0.1]
    )
    errors = results.test_error.values.ravel()
    assert errors[0] > 0.8
    assert errors[-1] < 0.6


# --- settings ---


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TutorialCNN(regularised="both"), "choose from factors, first"),
        (lambda: TutorialCNN(channels=(1,)), "2 convolutions"),  # pyright: ignore
        (lambda: TutorialCNN(hidden_width=0), "hidden width 0"),
        (lambda: TutorialCNN(dropout=1.0), "dropout 1"),
        (lambda: SmallCNN((0, 1)), "channels 0"),
        (lambda: SmallCNN((1, 2, 3, 4, 5)), "1 to 4 convolutions"),
        (lambda: SmallCNN(()), "1 to 4 convolutions"),
        (lambda: SmallCNN(hidden_width=0), "hidden width 0"),
        (lambda: FullyConnected("none"), "choose from near_zero"),
        (lambda: FullyConnected("balanced", (9,)), "hidden width 9 is below"),
        (lambda: FullyConnected(hidden_widths=(0,)), "hidden width 0"),
        (lambda: ClassifierConfig(num_steps=0), "num_steps 0"),
        (lambda: ClassifierConfig(batch_size=1.5), "batch_size 1.5"),  # pyright: ignore
        (lambda: ClassifierConfig(window=0), "window 0"),
        (lambda: ClassifierConfig(num_train=10), "below the batch size"),
        (lambda: ClassifierConfig(num_test=0), "num_test 0"),
        (lambda: ClassifierConfig(num_validation=-1), "num_validation -1"),
        (lambda: ClassifierConfig(num_fixed=-1), "num_fixed -1"),
        (lambda: ClassifierConfig(evaluate_every=0), "evaluate_every 0"),
        (lambda: ClassifierConfig(pixel_std=0.0), "pixel_std 0"),
        (lambda: ClassifierConfig(pixel_mean=float("inf")), "pixel_mean inf"),
        (lambda: ClassifierConfig(rate_decay=0.0), "rate_decay 0"),
        (lambda: ClassifierConfig(weight_decay=float("nan")), "weight_decay nan"),
        (lambda: ClassifierConfig(precision="half"), "choose from float32"),
        (lambda: ClassifierConfig(optimizer="lion"), "choose from sgd"),  # pyright: ignore
        (lambda: ClassifierConfig(optimizer=None), "an Optimizer, or a name"),  # pyright: ignore
        (lambda: ClassifierConfig(weight_decay="x"), "weight_decay x"),  # pyright: ignore
    ],
)
def test_settings_are_checked(make, words):
    with pytest.raises(UserError, match=words):
        make()


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({}, {"stds": [0.1]}, "has no initial standard dev"),
        ({"network": DEEP_CNN}, {}, "needs initial standard dev"),
        ({"network": DEEP_CNN}, {"stds": [-1.0]}, "deviation -1"),
        ({"network": DEEP_CNN}, {"stds": []}, "give one or more"),
        ({}, {"learning_rates": []}, "give one or more"),
        ({}, {"learning_rates": [0.1, 0.1]}, "each once"),
        ({}, {"learning_rates": [0.0]}, "above 0"),
        ({}, {"learning_rates": [float("inf")]}, "finite"),
        ({}, {"seeds": [-1]}, "seed -1"),
        ({}, {"seeds": [2**32]}, "below 2"),
        ({"num_steps": 2**28}, {}, "more than 2 GiB"),
        ({"num_train": 51}, {}, "50 are left"),
        ({"num_train": None, "num_validation": 75}, {}, "5 are left"),
        ({"num_validation": 100}, {}, "0 are left"),
        ({"num_test": 131}, {}, "130 test images"),
        ({"num_fixed": 46}, {}, "45 images to train with"),
    ],
)
def test_grids_are_checked(changes, arguments, words):
    arguments = {"learning_rates": [0.1]} | arguments
    with pytest.raises(UserError, match=words):
        train_classifiers(DATA, replace(SMALL, **changes), **arguments)


@pytest.mark.parametrize(
    "given",
    [
        {"learning_rates": np.array([0.1, 1.0]), "stds": np.array([0, 0.5]), "seeds": range(2)},
        {"learning_rates": "log:0.1:1:2", "stds": "0,0.5", "seeds": "0,1"},
        {"learning_rates": ("0.1", 1), "stds": [0, "0.5"], "seeds": np.arange(2)},
    ],
)
def test_grids_may_be_written_in_many_ways(given):
    wanted = ImageSweep(
        DATA, replace(SMALL, network=DEEP_CNN), learning_rates=(0.1, 1.0), stds=(0.0, 0.5),
        seeds=(0, 1),
    )  # fmt: skip
    sweep = ImageSweep(DATA, replace(SMALL, network=DEEP_CNN), **given)
    assert sweep.axes == wanted.axes
    assert sweep.identity.code() == wanted.identity.code()


@pytest.mark.parametrize("name", ["learning_rates", "stds", "seeds"])
@pytest.mark.parametrize("value", ["x", [None], [True], {0.1}, b"1", [[1]], 1j, [math.nan], -1])
def test_bad_grids_are_user_errors(name, value):
    given: dict[str, Any] = {"learning_rates": 0.1, "stds": 0.1, "seeds": 0} | {name: value}
    with pytest.raises(UserError):
        ImageSweep(DATA, replace(SMALL, network=DEEP_CNN), **given)


def test_settings_may_be_written_in_many_ways():
    given: dict[str, Any] = {"optimizer": "adam", "rate_decay": 1, "weight_decay": np.float64(0.5)}
    config = ClassifierConfig(SmallCNN([2, 3]), **given)  # pyright: ignore[reportArgumentType]
    wanted = ClassifierConfig(
        SmallCNN((2, 3)), optimizer=Optimizer("adam"), rate_decay=1.0, weight_decay=0.5
    )
    assert (config, str(config)) == (wanted, str(wanted))
    widths: Any = np.array([12, 11])
    assert FullyConnected("near_zero", widths) == FullyConnected("near_zero", (12, 11))


def test_another_optimizer():
    run = one_run(config_for(FC, optimizer=Optimizer("adam")), rate=1e-3)
    assert not np.allclose(run.cross_entropy, one_run(config_for(FC), rate=1e-3).cross_entropy)
