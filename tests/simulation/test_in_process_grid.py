import os
from collections.abc import Callable
from pathlib import Path

import pytest

from device.errors import ConfigError, RunError
from simulation.flower.environment import stay_local
from simulation.flower.in_process_grid import InProcessGrid, failure, run_in_process

# After the line above, which sets Flower's environment: it is read when flwr is imported.
from flwr.app import Context, Message, MetricRecord, RecordDict  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

client_app = ClientApp()


@client_app.query("count")
def count(message: Message, context: Context) -> Message:
    seen = int(context.state["counter"]["n"]) + 1 if "counter" in context.state else 1
    context.state["counter"] = MetricRecord({"n": seen})
    if message.content["in"]["fail"]:
        raise ZeroDivisionError("count was told to fail")
    out = {"seen": seen, "echo": message.content["in"]["value"], "partition": int(context.node_config["partition-id"])}
    return Message(RecordDict({"out": MetricRecord(out)}), reply_to=message)


@client_app.query("config")
def config(message: Message, context: Context) -> Message:
    out = {"nodes": int(context.node_config["num-partitions"]), "k": int(context.run_config["k"])}
    return Message(RecordDict({"out": MetricRecord(out)}), reply_to=message)


@client_app.query("nothing")
def nothing(message: Message, context: Context) -> None:
    return None


@client_app.query("stray")
def stray(message: Message, context: Context) -> Message:
    return Message(RecordDict(), message.metadata.src_node_id, "query.stray")


def ask(node: int, verb: str = "count", *, value: int = 0, fail: bool = False) -> Message:
    return Message(RecordDict({"in": MetricRecord({"value": value, "fail": int(fail)})}), node, f"query.{verb}")


def serve(main: Callable[[Grid, Context], None], *, clients: int = 3, shuffle: int | None = None) -> None:
    """Run `main` as a real ServerApp."""
    app = ServerApp()
    app.main()(main)
    run_in_process(app, client_app, clients=clients, run_config={"k": 5}, shuffle=shuffle)


def collect(rounds: int, *, clients: int = 3, shuffle: int | None = None) -> list[list[tuple[int, int, int]]]:
    """(node, seen, echo) of every reply, per round; node n is sent the value 10 n + round."""
    seen: list[list[tuple[int, int, int]]] = []

    def main(grid: Grid, context: Context) -> None:
        for r in range(rounds):
            replies = grid.send_and_receive([ask(n, value=10 * n + r) for n in grid.get_node_ids()], timeout=1.0)
            outs = [(m.metadata.src_node_id, m.content["out"]) for m in replies]
            seen.append([(node, out["seen"], out["echo"]) for node, out in outs])

    serve(main, clients=clients, shuffle=shuffle)
    return seen


def test_state_of_each_node_lasts_between_messages():
    rounds = collect(3, clients=2)
    assert rounds == [[(1, 1, 10), (2, 1, 20)], [(1, 2, 11), (2, 2, 21)], [(1, 3, 12), (2, 3, 22)]]


def test_two_runs_do_not_share_state():
    assert collect(1) == collect(1)


def test_two_hundred_nodes_with_their_partitions():
    got: list[tuple[int, int]] = []

    def main(grid: Grid, context: Context) -> None:
        for reply in grid.send_and_receive([ask(n) for n in grid.get_node_ids()]):
            got.append((reply.metadata.src_node_id, reply.content["out"]["partition"]))

    serve(main, clients=200)
    assert got == [(n, n - 1) for n in range(1, 201)]


def test_shuffle_returns_the_same_replies_in_another_order():
    plain, shuffled, again = (
        collect(2, clients=20),
        collect(2, clients=20, shuffle=4),
        collect(2, clients=20, shuffle=4),
    )
    assert shuffled != plain
    assert [sorted(r) for r in shuffled] == plain
    assert shuffled == again
    assert [n for n, _, _ in shuffled[0]] != [n for n, _, _ in shuffled[1]]


def test_run_config_and_partitions_reach_server_and_client():
    got = []

    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([ask(2, "config")])
        got.extend([context.run_config["k"], dict(reply.content["out"])])

    serve(main, clients=3)
    assert got == [5, {"nodes": 3, "k": 5}]


def test_an_exception_is_an_error_reply_and_leaves_the_others_and_the_state_alone():
    texts: list[str] = []
    seen: list[int] = []

    def main(grid: Grid, context: Context) -> None:
        good, bad = grid.send_and_receive([ask(1), ask(2, fail=True)])
        assert (good.has_error(), bad.has_error(), bad.has_content()) == (False, True, False)
        assert (bad.error.code, bad.metadata.src_node_id) == (2, 2)
        assert bad.error.reason.startswith("<class 'flwr.clientapp.client_app.ClientAppException'>:<'")
        texts.extend([failure(grid, bad), grid.traceback_of(good)])
        (after,) = grid.send_and_receive([ask(2)])
        seen.append(after.content["out"]["seen"])

    serve(main)
    assert "client 2 failed (code 2)" in texts[0]
    assert "ZeroDivisionError: count was told to fail" in texts[0]
    assert "in count" in texts[0]  # the frame of the client's own function
    assert texts[1] == ""
    assert seen == [1]  # the failed message raised the counter to 1, which Flower does not keep


@pytest.mark.parametrize(
    ("verb", "wrong"),
    [("nothing", "returned NoneType"), ("stray", "answers another"), ("missing", "No query function")],
)
def test_a_reply_that_is_none_is_an_error_reply(verb: str, wrong: str):
    texts: list[str] = []

    def main(grid: Grid, context: Context) -> None:
        (reply,) = grid.send_and_receive([ask(1, verb)])
        texts.append(failure(grid, reply))

    serve(main)
    assert wrong in texts[0]


def test_push_and_pull_in_parts():
    def main(grid: Grid, context: Context) -> None:
        first, second = grid.push_messages([ask(1, value=7), ask(2, value=8)])
        assert [m.content["out"]["echo"] for m in grid.pull_messages([second])] == [8]
        assert grid.pull_messages([second, "message-unknown"]) == []
        assert [m.content["out"]["echo"] for m in grid.pull_messages([first])] == [7]

    serve(main)


def test_one_message_in_flight_per_node():
    def main(grid: Grid, context: Context) -> None:
        with pytest.raises(RunError, match=r"node 3: it still has one in flight; pull that reply"):
            grid.push_messages([ask(1), ask(3), ask(3)])
        ids = grid.push_messages([ask(1)])  # the refused batch ran no node
        with pytest.raises(RunError, match=r"node 1: it still has one in flight"):
            grid.push_messages([ask(1)])
        (reply,) = grid.pull_messages(ids)
        assert reply.content["out"]["seen"] == 1
        assert grid.send_and_receive([ask(1)])[0].content["out"]["seen"] == 2

    serve(main)


def test_unknown_node_and_empty_grid_are_refused():
    def main(grid: Grid, context: Context) -> None:
        with pytest.raises(RunError, match=r"node 4: nodes are 1\.\.3"):
            grid.push_messages([ask(4)])

    serve(main)
    with pytest.raises(ConfigError, match="at least 1 client"):
        InProcessGrid(client_app, clients=0)


def test_what_the_server_raises_comes_out_and_identity_is_put_back():
    def main(grid: Grid, context: Context) -> None:
        raise RunError("told to stop")

    with pytest.raises(RunError, match="told to stop"):
        serve(main)
    with pytest.raises(RuntimeError, match="not set"):
        ask(1)  # outside a run nobody may make messages, as before


LOCAL = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def test_flower_is_kept_from_calling_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in [*LOCAL, "FLWR_HOME"]:
        monkeypatch.delenv(name, raising=False)
    stay_local(tmp_path)
    assert {name: os.environ[name] for name in LOCAL} == LOCAL
    assert os.environ["FLWR_HOME"] == str(tmp_path)


def test_what_the_caller_has_set_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FLWR_HOME", "/elsewhere")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    stay_local(tmp_path)
    assert (os.environ["FLWR_HOME"], os.environ["RAY_USAGE_STATS_ENABLED"]) == ("/elsewhere", "1")
