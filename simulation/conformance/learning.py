"""What the conformance kit asks of the training of a personalised torch method."""

import torch
from torch import nn

from device.check import Finding
from device.model import Items
from device.models.torch_model import reset
from simulation.conformance.policies import finding, named


def learning(made: nn.Module, histories: Items, candidates: Items) -> list[Finding]:
    """Whether training reaches every weight of a torch method."""
    hidden = [f"{type(part).__name__}.{name}" for part in made.modules() for name in plain_lists(part)]
    wrong = f"{', '.join(hidden)} holds modules in a plain list: they are not trained and not saved; use nn.ModuleList"
    findings = [finding("modules", not hidden, "all are registered", wrong)]
    known, pool = (torch.from_numpy(array).long() for array in (histories, candidates))
    made.train()
    try:
        if hasattr(made, "training_loss"):
            loss = made.training_loss(known, pool[:, 0], epoch=0, generator=torch.Generator())  # type: ignore[operator]
        else:
            loss = made(known, pool).square().sum()
        loss.backward()
    except Exception as error:
        cure = "training_loss(history, target, *, epoch, generator) gives a scalar with gradients, empty histories too"
        return [*findings, Finding("gradients", False, f"training raised {named(error)}; {cure}")]
    finally:
        made.eval()
    lacking = [name for name, one in made.named_parameters() if one.requires_grad and one.grad is None]
    made.zero_grad(set_to_none=True)
    wrong = f"none reaches {', '.join(lacking[:5])}; use it in patches or device, or take it out (detach() cuts it off)"
    return [*findings, finding("gradients", not lacking, "one step of training reaches every weight", wrong)]


def beginning(made: nn.Module, backbone: nn.Module) -> Finding:
    """Whether the draw before a training leaves the trained model alone that a method goes on from."""
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        reset(made)
    lost = [name for name, value in backbone.state_dict().items() if not torch.equal(value, before[name])]
    wrong = (
        f"the draw before training changes {', '.join(lost[:3])} of the trained model; give the method a reset() that "
        "draws its own new weights only"
    )
    return finding("beginning", not lost, "training begins with the trained model's weights", wrong)


def plain_lists(part: nn.Module) -> list[str]:
    """Names of attributes that hide modules in lists, tuples or dictionaries."""
    inside = {name: list(v.values()) if isinstance(v, dict) else v for name, v in vars(part).items() if name[0] != "_"}
    return [n for n, v in inside.items() if isinstance(v, list | tuple) and any(isinstance(m, nn.Module) for m in v)]
