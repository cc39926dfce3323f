"""The ClientApp: one client hosts one shard of the fleet and lives one wave per message."""

from simulation.flower.environment import stay_local

stay_local()

from flwr.app import ConfigRecord, Context, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from simulation.handout import read_handout  # noqa: E402
from simulation.replay import Shard  # noqa: E402
from simulation.wire import pack_wave, unpack_delivery  # noqa: E402

app = ClientApp()

# Shards that this process has at hand, by client: (what they are, last wave). A message may reach another process than
# the one before it did (Ray gives no promise), so unless the server says that all happens in one process the state
# also travels in context.state.
_at_hand: dict[tuple[int, int, int], tuple[str, int, Shard]] = {}


@app.query("profile")
def profile(message: Message, context: Context) -> Message:
    """Tell which part of the fleet this node is."""
    part = int(context.node_config["partition-id"])
    parts = int(context.node_config["num-partitions"])
    return Message(RecordDict({"profile": ConfigRecord({"part": part, "parts": parts})}), reply_to=message)


@app.query("advance")
def advance(message: Message, context: Context) -> Message:
    """Take in a delivery and live one wave."""
    order = message.content["order"]
    number = int(order["wave"])
    shard = shard_for(order, context)
    wave = shard.wave(number, unpack_delivery(bytes(order["delivery"])))
    keep(shard, order, context)
    return Message(RecordDict({"wave": ConfigRecord({"packed": pack_wave(wave)})}), reply_to=message)


def shard_for(order: ConfigRecord, context: Context) -> Shard:
    """The shard as the wave before left it: at hand, restored from context.state, or new for the first wave."""
    number, name = int(order["wave"]), f"{order['folder']} {order['policy']}"
    known = _at_hand.get(client(context))
    if number > 1 and known and known[:2] == (name, number - 1):
        return known[2]
    part, parts = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    shard = read_handout(str(order["folder"])).shard(str(order["policy"]), part, parts)
    if number > 1:
        shard.restore(bytes(context.state["shard"]["snapshot"]))
    return shard


def keep(shard: Shard, order: ConfigRecord, context: Context) -> None:
    """Remember the shard for the next wave."""
    name = f"{order['folder']} {order['policy']}"
    _at_hand[client(context)] = (name, int(order["wave"]), shard)
    if not order["one-process"]:
        context.state["shard"] = ConfigRecord({"snapshot": shard.snapshot()})


def client(context: Context) -> tuple[int, int, int]:
    """(run, part, parts)."""
    config = context.node_config
    return context.run_id, int(config["partition-id"]), int(config["num-partitions"])
