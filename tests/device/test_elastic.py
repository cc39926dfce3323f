"""The elastic rerankers: slices equal the masked model bit for bit, states continue, padding and costs."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from elastic_parts import FULL, KINDS, LENGTH, N_ITEMS, SPECS, STATEFUL, batch, elastic, slimmable, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cloud.losses import candidate_loss, position_loss
from cloud.options import Training
from cloud.ranking import through_forward
from device.check import check_device_model
from device.errors import ConfigError
from device.export import export_onnx
from device.models.slimming import SlimmableTorch, narrowed, straight_through
from device.patch import encode_patch
from device.seeds import rng
from device.subnet import Slimmable, SubnetSpec, as_read, installed

Kind = Callable[..., Any]


@pytest.mark.parametrize("kind", KINDS)
def test_the_conformance_kit_passes_for_the_whole_and_its_subnets(kind: Kind) -> None:
    model = SlimmableTorch(elastic(kind))
    assert isinstance(model, Slimmable)
    check_device_model(model, n_items=N_ITEMS, length=LENGTH).raise_on_failure()
    check_device_model(model.subnet(SPECS[0]), n_items=N_ITEMS, length=LENGTH).raise_on_failure()


@pytest.mark.parametrize("kind", KINDS)
def test_every_slice_is_the_masked_model_bit_for_bit(kind: Kind) -> None:
    module = elastic(kind)
    model, params = slimmable(module)
    assert len(SPECS) == 36
    for spec in SPECS:
        same_bits(module, model.subnet(spec).score, model.slice(params, spec), spec, batch(5, LENGTH, 6))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    seed=st.integers(0, 2**20),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 2 * LENGTH + 2), st.integers(1, 50)),
)
def test_also_for_other_weights_and_shapes(
    kind: Kind, spec: SubnetSpec, seed: int, shape: tuple[int, int, int]
) -> None:
    module = elastic(kind, seed)
    model, params = slimmable(module)
    same_bits(module, model.subnet(spec).score, model.slice(params, spec), spec, batch(*shape, seed))


def same_bits(module: Any, score: Any, cut: Any, spec: SubnetSpec, given: Any) -> None:
    with torch.inference_mode():
        masked = narrowed(module, spec)(*tensors(*given)).numpy()
    assert masked.tobytes() == score(cut, *given).tobytes(), str(spec)


class MaskedNorm(nn.Module):
    """Layer norm over the first channels; the others become 0."""

    def __init__(self, norm: nn.LayerNorm, active: int) -> None:
        super().__init__()
        self.norm, self.active = norm, active

    def forward(self, x: Tensor) -> Tensor:
        on = self.active
        made = nn.functional.layer_norm(x[..., :on], (on,), self.norm.weight[:on], self.norm.bias[:on], self.norm.eps)
        return nn.functional.pad(made, (0, x.shape[-1] - on))


def zeroed(module: Any, spec: SubnetSpec) -> Any:
    """The large model at its full width with 0 in all weights of the channels and blocks beyond `spec`."""
    large = copy.deepcopy(module).double()
    kept = {FULL.width: spec.width, 2 * FULL.width: 2 * spec.width, FULL.items: spec.items}
    with torch.no_grad():
        for name, weight in large.named_parameters():
            parts = name.split(".")
            if parts[0] in ("blocks", "layers") and int(parts[1]) >= spec.blocks:
                weight.zero_()
                continue
            gates = weight.view(3, -1, *weight.shape[1:]) if "_hh_" in name or "_ih_" in name else weight[None]
            for axis in range(1, gates.ndim):
                size = gates.shape[axis]
                gates.narrow(axis, kept.get(size, size), size - kept.get(size, size)).zero_()
        if spec.table == "int8":
            read = as_read(module.item.weight[:, : spec.items].numpy(), "int8")
            large.item.weight[:, : spec.items] = torch.from_numpy(read)
    for part in list(large.modules()):
        for name, norm in list(part.named_children()):
            if isinstance(norm, nn.LayerNorm):
                setattr(part, name, MaskedNorm(norm, spec.width))
    return large


@pytest.mark.parametrize("kind", KINDS)
def test_zeroes_in_the_large_model_at_its_full_width_give_the_same(kind: Kind) -> None:
    module = elastic(kind)
    module.requires_grad_(False)
    model, params = slimmable(module)
    given = batch(5, LENGTH, 6)
    for spec in SPECS[::7]:
        full = zeroed(module, spec)(*tensors(*given)).numpy()
        exact = model.dense(spec, params).double()(*tensors(*given)).detach().numpy()
        np.testing.assert_allclose(exact, full, rtol=1e-12, atol=1e-12, err_msg=str(spec))
        small = model.subnet(spec).score(model.slice(params, spec), *given)
        np.testing.assert_allclose(small, full, rtol=2e-6, atol=2e-6, err_msg=str(spec))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_a_slice_of_a_slice_is_a_slice(kind: Kind, data: st.DataObject) -> None:
    floats = [spec for spec in SPECS if spec.table == "float32"]
    between = data.draw(st.sampled_from(floats))
    spec = data.draw(st.sampled_from([one for one in SPECS if one.within(between)]))
    model, params = slimmable(elastic(kind))
    inner = SlimmableTorch(model.dense(between))
    once, twice = model.slice(params, spec), inner.slice(model.slice(params, between), spec)
    assert encode_patch(once) == encode_patch(twice)


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_are_those_of_what_is_installed(kind: Kind) -> None:
    model, params = slimmable(elastic(kind))
    for spec in SPECS[::5]:
        size, cut = model.size(spec, length=LENGTH, candidates=5), model.slice(params, spec)
        assert size.parameters == sum(array.size for array in cut.values())
        assert size.nbytes == len(encode_patch(installed(cut, spec, item_table="item.weight")))
        assert size.body_nbytes == len(encode_patch({k: v for k, v in cut.items() if k != "item.weight"}))


def test_parameters_by_hand() -> None:
    sizes = [SlimmableTorch(elastic(kind)).size(SubnetSpec(8, 1, 16), length=3, candidates=2) for kind in KINDS]
    table, enter, leave, square = 31 * 16, 16 * 8 + 8, 8 * 16 + 16, 8 * 8 + 8
    assert sizes[0].parameters == table + enter + leave + 6 * square + 3 * 16  # three norms
    assert sizes[1].parameters == table + enter + leave + 2 * 3 * square
    assert sizes[2].parameters == table + enter + 3 * square + (8 * 16 + 16) + 8 * 16 + (16 * 16 + 16) + 17


@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_that_torch_counts(kind: Kind) -> None:
    for spec in (FULL, SPECS[0]):
        made = elastic(kind, width=spec.width, blocks=spec.blocks, items=spec.items, length=50)
        history, candidates = torch.ones(1, 20, dtype=torch.long), torch.ones(1, 10, dtype=torch.long)
        with FlopCounterMode(display=False) as counted, nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            made(history, candidates)
        assert made.flops(20, 10) == counted.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_beyond_the_model_is_refused(kind: Kind) -> None:
    model, params = slimmable(elastic(kind))
    for label in ("w32-b1-e8", "w8-b3-e8", "w8-b1-e21"):
        with pytest.raises(ConfigError, match=rf"subnet {label}: Elastic\w+ is only w24-b2-e20; choose one of"):
            model.slice(params, SubnetSpec.parse(label))


def test_a_module_that_is_not_elastic_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Linear cannot be slimmed; give it spec, item_table, subnets\(\)"):
        SlimmableTorch(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_cutting_draws_no_random_numbers(kind: Kind) -> None:
    model, params = slimmable(elastic(kind))
    before = torch.random.get_rng_state()
    model.dense(SPECS[0], params)
    model.slice(params, SPECS[0])
    narrowed(model.module, SPECS[1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_table_of_a_masked_model_is_rounded_and_passes_gradients_on() -> None:
    table = torch.randn(9, 5, requires_grad=True)
    read = straight_through(table, "int8")
    assert read.detach().numpy().tobytes() == as_read(table.detach().numpy(), "int8").tobytes()
    (read * torch.arange(5.0)).sum().backward()
    assert torch.equal(table.grad, torch.arange(5.0).expand(9, 5))


@pytest.mark.parametrize("kind", STATEFUL)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), known=st.integers(0, 9), steps=st.integers(1, 14))
def test_a_state_continued_is_the_state_of_all_items(kind: Kind, seed: int, known: int, steps: int) -> None:
    made = elastic(kind, seed, length=LENGTH if kind is KINDS[0] else 99)
    (every,) = tensors(batch(5, known + steps, 1, seed)[0])
    every[:, known:] = torch.randint(1, N_ITEMS + 1, (5, steps), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        state = made.begin(every[:, :known])
        for place in range(known, known + steps):
            state = made.step(state, every[:, place])
            whole = made.states(every[:, : place + 1])[:, -1]
            torch.testing.assert_close(made.hidden(state), whole, rtol=1e-5, atol=1e-5)


def test_attention_sees_the_newest_items_of_each_position() -> None:
    made = elastic(KINDS[0], length=3)  # two blocks of three items: 2 * (3 - 1) + 1 = 5 items matter
    history = torch.arange(1, 10)[None]
    other = history.clone()
    with torch.inference_mode():
        for changed, matters in ((3, False), (4, True), (8, True)):
            other[:, : changed + 1] = 30
            states, others = made.states(history)[:, -1], made.states(other)[:, -1]
            assert ((states - others).abs().max() > 1e-4) == matters


@pytest.mark.parametrize("kind", STATEFUL)
def test_the_catalogue_is_scored_as_candidates_are(kind: Kind) -> None:
    made = elastic(kind)
    (history,) = tensors(batch(5, LENGTH, 1)[0])
    with torch.inference_mode():
        torch.testing.assert_close(made.catalogue(history), through_forward(made, history), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_the_usual_losses_reach_every_weight(kind: Kind, loss: Any) -> None:
    made = elastic(kind).train()
    options, generator = Training(loss=loss, negatives=9), torch.Generator().manual_seed(0)
    history, target = tensors(*batch(5, LENGTH, LENGTH))
    if kind in STATEFUL:
        value = position_loss(made, history, target, options=options, generator=generator)
    else:
        value = candidate_loss(made, history, target[:, 0], options=options, generator=generator)
    value.backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        # Softmax ignores a shift of all keys, or of all scores: such a gradient is 0 or what rounding left.
        assert parameter.grad.abs().max() > 0 or name.endswith("key.bias") or name == "out.bias", name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", ["w8-b1-e8-int8", pytest.param("w24-b2-e20", marks=pytest.mark.slow)])
def test_subnets_are_exported(kind: Kind, label: str, tmp_path: Any) -> None:
    model = SlimmableTorch(elastic(kind))
    params = model.init(rng(3))
    made = export_onnx(model.dense(SubnetSpec.parse(label), params), tmp_path, length=5, candidates=6, int8=False)
    assert made.files[0].max_difference < 1e-4
