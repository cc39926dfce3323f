"""Flower clients that remember nothing but their context, and a look at what they restore."""

from simulation.flower import client_app
from simulation.flower.server_app import serve
from simulation.handout import read_handout
from simulation.replay import Shard

# After the line that sets Flower's environment.
from flwr.serverapp import ServerApp  # isort: skip


class Forgetful:
    """A grid whose clients lose what they have at hand between messages, as when every message goes elsewhere."""

    def __init__(self, grid):
        self.grid = grid

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, *, timeout=None):
        client_app._at_hand.clear()
        read_handout.cache_clear()
        return self.grid.send_and_receive(messages, timeout=timeout)


def serving(job, grid=Forgetful):
    """A ServerApp for `job` whose grid is wrapped in `grid`."""
    app = ServerApp()
    app.main()(lambda plain, context: serve(grid(plain), job))
    return app


def restored(monkeypatch):
    """A list that grows by the bytes of every state that a client restores."""
    sizes, real = [], Shard.restore

    def spy(self, body):
        sizes.append(len(body))
        real(self, body)

    monkeypatch.setattr(Shard, "restore", spy)
    return sizes
