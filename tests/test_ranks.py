"""Tests for lightning_mixup.callback on two ranks: they come to what one process works out.

`two_ranks.py` runs all cases in one pair of processes, and some again in a pair that Lightning
spawns. The oracle trains a twin, in this process, on both ranks' batches at once: mixed by the
formula of the paper, with the draws that the ranks wrote down.
"""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import two_ranks
from torch.nn import functional as F
from torch.testing import assert_close
from two_ranks import BATCH, LAUNCHED, SEED, SPAWNED, TENSOR_PARALLEL

RUNS = [("launched", name) for name in LAUNCHED] + [("spawned", name) for name in SPAWNED]
each_run = pytest.mark.parametrize(("start", "name"), RUNS, ids=[" ".join(run) for run in RUNS])


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each of two ranks saw, by how they were started and by case."""
    launched, spawned = (tmp_path_factory.mktemp(start) for start in ("launched", "spawned"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        *(run("launched", launched, **as_torchrun(rank, port)) for rank in range(2)),
        run("spawned", spawned),
    ]
    try:
        outputs = [process.communicate(timeout=400)[0] for process in started]
    except subprocess.TimeoutExpired:
        pytest.fail("a rank waits for the other in vain")
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0, 0], "\n".join(outputs)
    folders = {"launched": launched, "spawned": spawned}
    return {
        (start, name): [torch.load(folders[start] / f"{name}-{rank}.pt") for rank in range(2)]
        for start, name in RUNS
    }


def as_torchrun(rank, port):
    """Returns the environment of one of two processes that torchrun starts."""
    world = {"WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2}
    server = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {**world, **server, "GROUP_RANK": 0}


def run(how, folder, **settings):
    variables = {"OMP_NUM_THREADS": 1, "PYTHONWARNINGS": "ignore", **settings}
    return subprocess.Popen(
        [sys.executable, two_ranks.__file__, how, str(folder)],
        env={**os.environ, **{key: str(value) for key, value in variables.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# One process that does by hand what two have done.


def loss_by_hand(net, batch, mix):
    """Returns the loss of a batch, and its logits, in the words of the paper."""
    h, y = batch
    for place, layer in zip(two_ranks.PLACES, [None, net.layer1, net.layer2], strict=True):
        h = h if layer is None else layer(h)
        if mix and mix["place"] == place:
            weight = mix["weight"].reshape(-1, 1)
            h = weight * h + (1 - weight) * h[mix["partner"]]
    logits = net.head(h)
    if mix is None:
        return F.cross_entropy(logits, y), logits
    losses = [F.cross_entropy(logits, label, reduction="none") for label in (y, y[mix["partner"]])]
    return (mix["weight"] * losses[0] + (1 - mix["weight"]) * losses[1]).mean(), logits


def hits_by_hand(logits, y, mix):
    """Returns, sample by sample, whether the label of the larger weight is predicted."""
    if mix is not None:
        y = torch.where(mix["weight"] < 0.5, y[mix["partner"]], y)
    return logits.argmax(dim=1) == y


def train_by_hand(ranks, accumulate):
    """Returns what both ranks must come to."""
    module = two_ranks.Deep()
    optimizer = module.configure_optimizers()
    per_epoch = len(ranks[0]["steps"]) // 2
    found = {"losses": [], "gradients": [], "hits": []}
    for number, steps in enumerate(zip(*(rank["steps"] for rank in ranks), strict=True)):
        pairs = [loss_by_hand(module.net, step["batch"], step["mix"]) for step in steps]
        sum(loss for loss, _ in pairs).div(2 * accumulate).backward()
        found["losses"].append([loss.item() for loss, _ in pairs])
        found["hits"].append([
            hits_by_hand(logits, step["batch"][1], step["mix"])
            for (_, logits), step in zip(pairs, steps, strict=True)
        ])
        in_epoch = number % per_epoch + 1
        if in_epoch % accumulate == 0 or in_epoch == per_epoch:
            found["gradients"].append([p.grad.clone() for p in module.net.parameters()])
            optimizer.step()
            optimizer.zero_grad()
    return {**found, "weights": [p.detach() for p in module.net.parameters()]}


@pytest.fixture(scope="module")
def by_hand(seen):
    """What one process works out, by how the ranks were started and by case."""
    return {key: train_by_hand(seen[key], LAUNCHED[key[1]].accumulate) for key in RUNS}


@each_run
def test_each_ranks_losses_are_those_by_hand(seen, by_hand, start, name):
    accumulate = LAUNCHED[name].accumulate

    losses = [[step["loss"] for step in rank["steps"]] for rank in seen[start, name]]

    expected = torch.tensor(by_hand[start, name]["losses"], dtype=torch.float64).T / accumulate
    assert_close(torch.tensor(losses, dtype=torch.float64), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1])
@each_run
def test_gradients_are_those_of_the_mean_over_both_ranks(seen, by_hand, start, name, rank):
    gradients = seen[start, name][rank]["gradients"]

    assert_close(gradients, by_hand[start, name]["gradients"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1])
@each_run
def test_both_ranks_end_with_the_weights_by_hand(seen, by_hand, start, name, rank):
    weights = seen[start, name][rank]["weights"]

    assert_close(weights, by_hand[start, name]["weights"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1])
@each_run
def test_what_is_logged_is_pooled_over_both_ranks(seen, by_hand, start, name, rank):
    ranks, found = seen[start, name], by_hand[start, name]
    last_epoch = slice(len(found["losses"]) // 2, None)
    sizes = np.array([len(step["batch"][1]) for step in ranks[0]["steps"][last_epoch]])

    means = np.array(found["losses"][last_epoch]).mean(axis=1)
    hits = torch.cat([hits for both in found["hits"][last_epoch] for hits in both])

    logged = ranks[rank]["logged"]
    assert logged["loss_step"] == pytest.approx(means[-1], abs=1e-6)
    assert logged["loss_epoch"] == pytest.approx((means * sizes).sum() / sizes.sum(), abs=1e-6)
    assert logged["acc"] == pytest.approx(hits.double().mean().item(), abs=1e-6)


# The draws.


def drawn(rank):
    """Returns what was drawn in each step, as plain numbers."""
    return [
        step["mix"]
        and {key: getattr(value, "tolist", value.__str__)() for key, value in step["mix"].items()}
        for step in rank["steps"]
    ]


def weights(rank):
    return {w for mix in drawn(rank) if mix for w in np.ravel(mix["weight"])}


@pytest.mark.parametrize("name", sorted(set(LAUNCHED) - {TENSOR_PARALLEL}))
def test_ranks_share_no_weight(seen, name):
    first, second = (weights(rank) for rank in seen["launched", name])

    assert first
    assert second
    assert not first & second


@pytest.mark.parametrize("name", SPAWNED)
def test_ranks_draw_alike_however_they_are_started(seen, name):
    """Also where the ranks are seeded differently: what counts is the seed of rank zero."""
    launched, spawned = (
        [drawn(rank) for rank in seen[start, name]] for start in ("launched", "spawned")
    )

    assert launched == spawned


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", ["input, per sample", "half of the batches", "fully sharded"])
def test_a_rank_draws_from_the_seed_its_rank_and_the_number_of_the_batch(seen, name, rank):
    """Numpy's generator, asked in the order that the docs promise."""
    prob, places = LAUNCHED[name].settings.get("prob", 1), LAUNCHED[name].settings.get("layers")

    expected = [expect(number, rank, prob, places) for number in range(6)]

    assert drawn(seen["launched", name][rank]) == expected


def expect(number, rank, prob, places):
    bits = np.random.Philox(key=SEED + rank * 2**64, counter=number * 2**192)
    rng, size = np.random.Generator(bits), [BATCH, BATCH, 3][number % 3]
    if rng.random() >= prob:
        return None
    shift = 1 + int(rng.random() * (size - 1))
    weight = rng.beta(1, 1, size)
    place = places[rng.integers(len(places))] if places else "input"
    partner = [(i + int(shift)) % size for i in range(size)]
    return {"weight": weight.tolist(), "partner": partner, "place": place}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_schedule_is_the_same_on_every_rank(seen, rank):
    """Its end is counted in the batches of one rank, of which there are six."""
    mixed = [mix is not None for mix in drawn(seen["launched", "scheduled"][rank])]

    assert mixed == [True] * 4 + [False] * 2


def test_ranks_that_split_up_a_module_draw_alike(seen):
    """They train on the same batch, so that they must not see it mixed in two ways."""
    first, second = seen["launched", TENSOR_PARALLEL]

    assert drawn(first) == drawn(second)
    assert [step["loss"] for step in first["steps"]] == [step["loss"] for step in second["steps"]]
