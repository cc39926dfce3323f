"""CKI: every formula by hand, the two ways to splice, and that what is deployed is what was trained."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from two_tastes import KNOWN, WIDTH, backbone, batch, fast_step, hits, learn, shared_hits, untouched

from cloud.options import Training
from cloud.personalizers.cki import Cki, CkiPersonal, entropy, first_share, global_gate, share
from cloud.personalizers.duet import Duet
from cloud.personalizers.trained import TrainedPersonalizer
from cloud.sequences import Sequences
from cloud.training import fit
from device.errors import ConfigError
from device.models.personal_head import head_layers
from device.models.personal_torch import PersonalTorch
from device.models.sasrec import SASRec
from device.seeds import draws

HISTORY = torch.tensor([[0, 0, 0, 4, 9, 2], [0, 0, 0, 0, 0, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 10, 1], [6, 5, 12], [1, 2, 3]])


def two() -> tuple[SASRec, SASRec]:
    torch.manual_seed(5)
    nets = backbone(KNOWN), backbone(KNOWN)
    with torch.no_grad():
        for net in nets:
            for p in net.parameters():
                p.add_(0.3 * torch.randn_like(p))
            net.item.weight[0] = 0
    return nets


def duet(**options: object) -> Duet:
    torch.manual_seed(3)
    made = Duet(backbone(), **{"code": 8, "uploaded": KNOWN, **options}).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        made.trunk.out.weight *= 10
    return made


def personal() -> CkiPersonal:
    torch.manual_seed(4)
    return CkiPersonal(duet()).eval()


def test_entropy_by_hand() -> None:
    """0, 1, .., 9 fill ten bins: log 10. 0, 0, 0, 1: the first bin 3/4, the last 1/4. Equal numbers: one bin, 0."""
    assert entropy(torch.arange(10.0)).item() == pytest.approx(math.log(10))
    quarter = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    rows = torch.tensor([[0.0, 0, 0, 1], [7, 7, 7, 7], [0, 1, 1, 0]])
    np.testing.assert_allclose(entropy(rows), [quarter, 0, math.log(2)], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), size=st.integers(1, 200), seed=st.integers(0, 2**31))
def test_entropy_is_that_of_numpys_histogram(rows: int, size: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((rows, size))
    for row, made in zip(values, entropy(torch.from_numpy(values)), strict=True):
        p = np.histogram(row, 10)[0] / size
        assert made.item() == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), abs=1e-9)


def test_g_by_hand() -> None:
    """Equal entropies: 1/2. 500 (H1 - H2) = 1: .4 / pi pi / 4 + .5 = .6; -1: .4. Far apart: .7 and .3."""
    first = torch.tensor([1.0, 0.002, 0.0, 50.0, 0.0], dtype=torch.float64)
    second = torch.tensor([1.0, 0.0, 0.002, 0.0, 50.0], dtype=torch.float64)
    np.testing.assert_allclose(global_gate(first, second), [0.5, 0.6, 0.4, 0.7, 0.3], atol=1e-5)


def test_w1_w2_and_their_shares_by_hand() -> None:
    """g = .6, l = .25: w1 = .6 (1 - e^-.15) = .083575, w2 = .4 (1 - e^-.3) = .103673, s = e^w1 / (e^w1 + e^w2)."""
    w1, w2 = 0.6 * (1 - math.exp(-0.15)), 0.4 * (1 - math.exp(-0.4 * 0.75))
    assert (round(w1, 6), round(w2, 6)) == (0.083575, 0.103673)
    expected = math.exp(w1) / (math.exp(w1) + math.exp(w2))
    made = share(torch.tensor(0.6), torch.tensor([0.25, 0.5]))
    assert made[0].item() == pytest.approx(expected, rel=1e-6)
    assert share(torch.tensor(0.5), torch.tensor(0.5)).item() == 0.5


@settings(deadline=None)
@given(g=st.floats(0.3, 0.7), local=st.floats(0, 1))
def test_shares_stay_near_the_middle_and_mirror(g: float, local: float) -> None:
    both = torch.tensor([g, 1 - g], dtype=torch.float64), torch.tensor([local, 1 - local], dtype=torch.float64)
    first, second = share(*both).tolist()
    assert first + second == pytest.approx(1)  # nets swapped: shares swapped
    assert 0.41 < first < 0.59


def test_l_works_along_the_last_axis() -> None:
    """P = [[1, 2], [0, 1]], |W1 - W2| = [.5, .25]: l = sigmoid([1, .25]); two equal bins in both layers, so g = 1/2."""
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.25])
    made = first_share(first, second, torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    local = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-0.25))]
    np.testing.assert_allclose(made, [share(torch.tensor(0.5), torch.tensor(x)) for x in local], rtol=1e-6)


def test_many_second_layers_are_spliced_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    first, many, local_map = (torch.randn(*s, generator=generator) for s in ((3, 4), (5, 3, 4), (4, 4)))
    made = first_share(first, many, local_map)
    for row in range(5):
        torch.testing.assert_close(made[row], first_share(first, many[row], local_map))
    assert len({round(float(g), 4) for g in global_gate(entropy(first.flatten()), entropy(many.flatten(1)))}) > 1


def test_what_is_deployed_is_what_was_trained() -> None:
    first, second = two()
    made = Cki(first, second)
    learn(made, 3)
    net = made.spliced()
    with torch.no_grad():
        torch.testing.assert_close(net(HISTORY, CANDIDATES), made(HISTORY, CANDIDATES))
        torch.testing.assert_close(net.catalogue(HISTORY), made.catalogue(HISTORY))
        torch.testing.assert_close(net.states(HISTORY), made.states(HISTORY))
        for name, weight in net.named_parameters():
            if name != "item.weight":
                low, high = (
                    f(first.state_dict()[name], second.state_dict()[name]) for f in (torch.minimum, torch.maximum)
                )
                assert ((weight >= low - 1e-6) & (weight <= high + 1e-6)).all()
    assert net.flops(50, 100) == first.flops(50, 100) == made.flops(50, 100)
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in first.state_dict().items()}


def test_only_maps_and_items_learn_and_all_of_them() -> None:
    first, second = two()
    made = Cki(first, second)
    assert {name.split(".")[0] for name, p in made.named_parameters() if p.requires_grad} == {"item", "maps"}
    frozen = {name: p.clone() for name, p in made.named_parameters() if not p.requires_grad}
    assert untouched(made, 3) == set()
    for name, before in frozen.items():
        assert torch.equal(dict(made.named_parameters())[name], before)
    made.reset()
    assert torch.equal(made.item.weight, first.item.weight)


def test_a_net_spliced_with_itself_is_itself() -> None:
    first, _ = two()
    net = Cki(first, first).spliced()
    for name, weight in net.state_dict().items():
        torch.testing.assert_close(weight, first.state_dict()[name])


def test_nets_that_share_their_beginning_splice_well() -> None:
    torch.manual_seed(0)
    first = backbone(KNOWN)
    learn(first, 40)
    second = copy.deepcopy(first)
    learn(second, 20)
    made = Cki(first, second)
    assert min(hits(first), hits(second)) > 0.9
    assert hits(made.spliced()) > 0.9  # before anything is learned
    learn(made, 10)
    assert hits(made.spliced()) > 0.9


def test_the_trainer_keeps_and_restores_it(tmp_path: Path) -> None:
    history, target = batch(20, torch.Generator().manual_seed(0))
    items = torch.cat([history, target[:, None]], 1).numpy().astype(np.int32)
    starts = np.arange(20) * (KNOWN + 1)
    data = Sequences(items.reshape(-1), starts, starts + KNOWN + 1)
    first, second = two()
    options = Training(epochs=1, patience=0, batch=64, learning_rate=0.01, loss="full")
    made, again = Cki(first, second, loss="positions"), Cki(first, second, loss="positions")
    fit(made, data, None, options=options, seed=1, folder=tmp_path / "static")
    fit(again, data, None, options=options, seed=1, folder=tmp_path / "static")
    with torch.no_grad():
        assert torch.equal(made.spliced()(history, history), again.spliced()(history, history))
    assert not torch.equal(made.item.weight, first.item.weight)
    dynamic, restored = personal(), personal()
    fit(dynamic, data, None, options=options, seed=1, folder=tmp_path / "dynamic")
    fit(restored, data, None, options=options, seed=1, folder=tmp_path / "dynamic")
    with torch.no_grad():
        assert torch.equal(dynamic(history, history), restored(history, history))


def test_a_generated_head_is_spliced_with_the_shared_one() -> None:
    """W = s B + (1 - s) (B + z A), layer by layer, by the formula of two static nets."""
    made = personal().requires_grad_(False)
    shared, width = made.device.shared, WIDTH
    generated = made.duet.patches(HISTORY)["head"]
    patch = made.patches(HISTORY)["head"]
    for row in range(4):
        merged = []
        dynamic = head_layers(shared + generated[row], width)
        for first, second, local_map in zip(head_layers(shared, width), dynamic, made.maps, strict=True):
            s = first_share(first, second, local_map.weight)  # type: ignore[arg-type]
            merged.append((s * first + (1 - s) * second).flatten())
        torch.testing.assert_close(shared + patch[row], torch.cat(merged), atol=1e-6, rtol=1e-5)
    ratio = patch[:3] / generated[:3]
    assert (ratio > 0.41).all()
    assert (ratio < 0.59).all()
    assert not patch[3].any()
    assert {name: part.nbytes for name, part in made.layout.items()} == {"head": 2 * (16 * 16 + 16) * 4}


def test_a_batch_equals_single_devices_and_the_halves_the_whole() -> None:
    made = personal().requires_grad_(False)
    whole, scores = made.patches(HISTORY)["head"], made(HISTORY, CANDIDATES)
    for row in range(4):
        torch.testing.assert_close(made.patches(HISTORY[row : row + 1])["head"][0], whole[row], atol=1e-6, rtol=1e-5)
    changed = (scores - made.device(HISTORY, CANDIDATES)).abs().sum(1)
    assert (changed[:3] > 1e-5).all()
    assert changed[3] == 0
    known, candidates, who = HISTORY.numpy().astype(np.int32), CANDIDATES.numpy().astype(np.int32), np.arange(4)
    personals = TrainedPersonalizer(made).personalize(known, who, rng=draws(0, "cki", who, who))
    params = {name: value.numpy() for name, value in made.device.state_dict().items()}
    wrapped = PersonalTorch(made.device).score_personal(params, personals.patches, known, candidates)
    np.testing.assert_allclose(wrapped, scores, atol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_the_dynamic_variant_learns_maps_and_items_only(loss: str) -> None:
    made = CkiPersonal(duet(), loss=loss)  # type: ignore[arg-type]
    before = {name: p.clone() for name, p in made.named_parameters()}
    assert untouched(made, 2) == set()
    moved = {name for name, p in made.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"duet.device.backbone.item.weight"} | {f"maps.{i}.weight" for i in range(4)}


def test_bfloat16() -> None:
    fast_step(Cki(*two()))
    fast_step(personal())


def test_two_opposite_tastes_survive_the_splicing() -> None:
    trained = duet()
    learn(trained, 100)
    made = CkiPersonal(trained)
    learn(made, 20)
    assert shared_hits() < 0.6
    assert hits(made) > 0.9
    assert hits(made.device) < 0.6


def test_what_cannot_be_spliced_is_refused() -> None:
    with pytest.raises(ConfigError, match="match them"):
        Cki(backbone(KNOWN), backbone(KNOWN, width=8))
    for options in ({"send": "code"}, {"alone": 0.0}, {"faithful": True}):
        with pytest.raises(ConfigError, match="alone above 0"):
            CkiPersonal(duet(**options))
