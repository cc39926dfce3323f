"""The project's exceptions; every message names the place, the value and the way out.

ValueError
 └─ TandemError
     ├─ ConfigError     a key, type or value in a TOML file or a `--set`
     ├─ DataError       a file of interactions or traces
     ├─ WireError       a message that is truncated, altered or of another version
     ├─ ContractError   a plug-in that breaks its contract
     └─ RunError        a run that could not be finished or a run folder that cannot be read
"""


class TandemError(ValueError):
    """Anything TandemRec refuses, with a message meant for the person who can mend it."""


class ConfigError(TandemError):
    """A configuration that cannot be used."""


class DataError(TandemError):
    """A data file that cannot be used; the message says file, line, column and what was expected."""


class WireError(TandemError):
    """Bytes that are not a message of ours."""


class ContractError(TandemError):
    """A plug-in whose answer has the wrong shape, type or values."""


class RunError(TandemError):
    """A run that failed or a run folder that is not one."""
