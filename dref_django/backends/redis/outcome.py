"""What an error of redis-py says about a command: not applied, perhaps applied, or hopeless."""

from __future__ import annotations

import redis.exceptions as errors

from dref_django.backends.delivery import NotSent, ReplyLost
from dref_django.exceptions import DRefError, Unavailable

# Complete answers of a server that did not run the command and may run it soon, or whose successor may.
TRANSIENT = (
    errors.BusyLoadingError,
    errors.ReadOnlyError,
    errors.MasterDownError,
    errors.ClusterDownError,
    errors.TryAgainError,
    errors.AskError,  # MOVED, too
)
# Scripts that are denied their first write carry the reason inside another message on older servers.
TRANSIENT_WORDS = ("LOADING ", "READONLY ", "MASTERDOWN ", "CLUSTERDOWN ", "TRYAGAIN ", "BUSY ", "NOREPLICAS ")
STEADY_WORDS = ("MISCONF ", "OOM ")
ERRORS_BY_CODE: dict[str, type[errors.RedisError]] = {
    "ASK": errors.AskError,
    "CLUSTERDOWN": errors.ClusterDownError,
    "LOADING": errors.BusyLoadingError,
    "MASTERDOWN": errors.MasterDownError,
    "MOVED": errors.MovedError,
    "NOAUTH": errors.AuthenticationError,
    "NOPERM": errors.NoPermissionError,
    "NOSCRIPT": errors.NoScriptError,
    "OOM": errors.OutOfMemoryError,
    "READONLY": errors.ReadOnlyError,
    "TRYAGAIN": errors.TryAgainError,
    "WRONGPASS": errors.AuthenticationError,
}
DEMOTED = (errors.ReadOnlyError, errors.MasterDownError, errors.BusyLoadingError)
"""After these the connection is given up: the next one may lead to the new primary."""


def parse_error(line: str) -> errors.RedisError:
    """The error of a reply, as redis-py's own parsers make it."""
    code, _, rest = line.partition(" ")
    known = ERRORS_BY_CODE.get(code)
    return errors.ResponseError(line) if known is None else known(rest)


def refused(error: errors.RedisError, where: str) -> Exception:
    """The exception for an error that the server itself answered with. Such a command changed nothing."""
    if isinstance(error, (errors.AuthenticationError, errors.NoPermissionError)):
        return Unavailable(
            f"{where} refuses the credentials or a permission: {error}. Nothing was changed. Check user name, password "
            "and ACL; the back end needs EVAL, EVALSHA, the commands in its .lua files, SUBSCRIBE, PUBLISH and INFO."
        )
    text = f"{error} "
    if isinstance(error, TRANSIENT) or any(word in text for word in TRANSIENT_WORDS):
        return NotSent(str(error))
    if isinstance(error, errors.OutOfMemoryError) or any(word in text for word in STEADY_WORDS):
        return Unavailable(f"{where} does not accept writes: {error}. Nothing was changed.")
    return DRefError(f"{where} answered with an error: {error}")


def before_sending(error: BaseException, where: str) -> Exception:
    """The exception for an error while a connection was being made."""
    if isinstance(error, errors.AuthenticationError):
        return refused(error, where)
    return NotSent(f"{where}: {error}")


def after_sending(error: BaseException, where: str) -> Exception:
    """The exception for an error after the first byte may have left."""
    if isinstance(error, errors.AuthenticationError | errors.BusyLoadingError | errors.ResponseError):
        return refused(error, where)
    return ReplyLost(f"{where}: {str(error) or type(error).__name__}")
