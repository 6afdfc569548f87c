"""What can be wrong between this machine and an API server, by who must act.

Sentences of the server's own are carried in the message: they name field and reason.
"""

from ..errors import HostAgentError


class ClusterUnreachable(HostAgentError):
    """No answer of the API server: connection, time-out, TLS, overload. Worth another try."""

    code = "cluster-unreachable"
    exit_status = 75


class ClusterCredentialFailed(HostAgentError):
    """What the kubeconfig names to be known by cannot be had, or is refused (401)."""

    code = "cluster-credential-failed"
    exit_status = 77


class ClusterRefused(HostAgentError):
    """This user may not do this (403)."""

    code = "cluster-refused"
    exit_status = 77


class ObjectMissing(HostAgentError):
    """There is no such object, or no such kind of object (404, 410)."""

    code = "object-missing"
    exit_status = 69


class ObjectExists(HostAgentError):
    """An object of this name is already there (409 AlreadyExists)."""

    code = "object-exists"
    exit_status = 75


class ObjectConflict(HostAgentError):
    """Somebody else has changed the object since it was read (409 Conflict): read it again."""

    code = "object-conflict"
    exit_status = 75


class ObjectInvalid(HostAgentError):
    """The API server will not have the object as it is (400, 422)."""

    code = "object-invalid"
    exit_status = 65
