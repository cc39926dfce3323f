"""Subnets with tables of codes: the conformance kit, configurations, and what is cut out."""

import tomllib
from typing import Any

import numpy as np
import pytest
from tiny import TOML
from torch import nn
from trait_parts import Decaying, failed, with_

from device.errors import ConfigError
from device.messages import encode_patch
from device.seeds import rng
from device.subnet import KINDS, SubnetSpec, as_read, grid, installed, leading
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig
from simulation.conformance.made_up import N_ITEMS
from simulation.installing import Installed, laid_out
from simulation.slimming import cut, spec_of, supernet, weights

PLAIN = 'class = "device.models.sasrec:SASRec"\nwidth = 8\nblocks = 1\n'
ELASTIC = 'class = "device.models.elastic:ElasticSASRec"\nwidth = 16\nblocks = 2\nitems = 16\n'
FITTED = [kind for kind in KINDS if kind not in ("float32", "int8")]
SIZES = {"n_items": 400, "length": 10}


def made(subnet: str, *, listed: str = "", device: str = "") -> ExperimentConfig:
    """The tiny experiment with one tier of this subnet."""
    text = TOML.replace(PLAIN, ELASTIC).replace("[device]\n", f"[device]\n{device}")
    table = f"[device.supernet]\nsubnets = [{listed}]\n" if listed else ""
    text += f'{table}[[device.tiers]]\nname = "phone"\nshare = 1.0\nsubnet = "{subnet}"\n'
    return check(tomllib.loads(text), ExperimentConfig, "tiny.toml")


def net_of(config: ExperimentConfig) -> Any:
    """The supernet of a configuration with drawn weights."""
    assert config.device.model is not None
    net = supernet(config, config.device.model, SIZES)
    draw = rng(0, "compact tables")
    for parameter in net.model.parameters():
        parameter.data.copy_(parameter.new_tensor(draw.normal(size=tuple(parameter.shape)) * 0.3))
    net.model.eval().item.weight.data[0] = 0
    return net


def offering(kind: Any, read: Any = as_read) -> Decaying:
    """A model without torch that offers one subnet with such a table besides the usual ones."""

    def slice_(self: Any, params: Any, spec: SubnetSpec) -> Any:
        self.refuse(spec)
        table = leading(params["item"], (N_ITEMS + 1, spec.items))
        return {"item": read(table, spec.table) if spec.table != "float32" else table}

    specs = [SubnetSpec(8, 1, 16, kind), *(spec for spec in grid(SubnetSpec(8, 1, 16)) if spec.table == "float32")]
    return with_(slice=slice_, subnets=lambda self: specs)


@pytest.mark.parametrize("kind", FITTED)
def test_a_model_may_offer_them_and_the_kit_looks_at_the_table(kind: str) -> None:
    assert not failed(offering(kind))
    wrong = failed(offering(kind, lambda table, _: table))
    assert list(wrong) == ["int8 table"]
    assert f'return device.subnet.as_read(table, "{kind}")' in wrong["int8 table"]


@pytest.mark.parametrize("kind", FITTED)
def test_what_is_cut_is_counted_as_encoded_and_scores_as_decoded(kind: Any) -> None:
    module: nn.Module = net_of(made("w8-b1-e8")).model
    spec = SubnetSpec(8, 1, 8, kind)
    model, params, nbytes = cut(module, spec)
    _, whole, most = cut(module, spec.in_training)
    assert nbytes == len(encode_patch(installed(whole, spec, item_table="item.weight"))) < most
    assert params["item.weight"].tobytes() == as_read(whole["item.weight"], kind).tobytes()
    history, candidates = np.array([[0, 3, 5]], np.int32), np.array([[1, 2, 400]], np.int32)
    assert model.score(params, history, candidates).shape == (1, 3)
    assert weights(module)["item.weight"].shape == (401, 16)


@pytest.mark.parametrize("listed", ["", '"w8-b1-e8"', '"w8-b1-e8-code4"', '"w8-b1-e8-code8", "w8-b1-e8-code4"'])
def test_one_training_serves_all_kinds_that_are_fitted_afterwards(listed: str) -> None:
    config = made("w8-b1-e8-code4", listed=listed)
    net = net_of(config)
    assert str(spec_of(config, config.device.tiers[0], net.model)) == "w8-b1-e8-code4"
    if listed:
        assert [str(spec) for spec in net.specs] == ["w8-b1-e8"]


def test_what_is_not_trained_is_refused_with_any_table() -> None:
    config = made("w8-b1-e8-code4", listed='"w8-b1-e8-int8"')
    with pytest.raises(ConfigError, match="w8-b1-e8-code4 is not trained; choose one of w8-b1-e8-int8"):
        spec_of(config, config.device.tiers[0], net_of(config).model)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("runtime", ["onnxruntime", "onnxruntime-int8"])
def test_files_hold_no_compact_tables(kind: str, runtime: str) -> None:
    if (runtime, kind) == ("onnxruntime-int8", "int8"):
        assert made("w8-b1-e8-int8", device=f'runtime = "{runtime}"\n').device.tiers[0].subnet == "w8-b1-e8-int8"
        return
    with pytest.raises(ConfigError, match=rf'take "-{kind}" off the subnets'):
        made(f"w8-b1-e8-{kind}", device=f'runtime = "{runtime}"\n')


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("items", ["resident-int8", "streamed"])
def test_tables_that_are_held_otherwise_than_the_label_says_are_refused(kind: str, items: str) -> None:
    held, label = f'items = "{items}"\n', f"w8-b1-e8-{kind}"
    remedy = rf'items = "{items}" holds them as int8; write "w8-b1-e8", or use items = "resident"'
    with pytest.raises(ConfigError, match=rf"\[device.tiers\] subnet: '{label}' .*{remedy}"):
        made(label, device=held)
    with pytest.raises(ConfigError, match=rf"\[device.supernet\] subnet: '{label}' .*{remedy}"):
        made("w8-b1-e8", listed=f'"{label}"', device=held)  # a search could find it


@pytest.mark.parametrize("items", ["resident-int8", "streamed"])
def test_an_int8_label_is_what_int8_items_hold(items: str) -> None:
    config = made("w8-b1-e8-int8", device=f'items = "{items}"\n')
    module = net_of(config).model
    told = laid_out(config, Installed(*cut(module, spec_of(config, config.device.tiers[0], module)), None))
    _, params, nbytes = cut(module, SubnetSpec(8, 1, 8, "int8"))
    assert told.params.keys() == params.keys()
    assert all(told.params[name].tobytes() == array.tobytes() for name, array in params.items())
    if items == "resident-int8":
        assert told.nbytes == nbytes
    else:
        assert told.rows is not None
        assert told.rows.table().tobytes() == params["item.weight"].tobytes()
