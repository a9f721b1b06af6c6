"""Who may do what with a run: its owner and admins everything, members of its workspace may read it.

Handlers get the id of their run from here and nowhere else, so that none forgets to ask.
"""

from starlette.requests import Request

from runstore.core.ids import parse_run_id
from runstore.http.errors import Forbidden
from runstore.http.users import User, login_of
from runstore.store import Owner, RunStore


class Access:
    """Raises what `RunStore.owner` does, and Forbidden for a run that is another's."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    async def readable(self, request: Request) -> str:
        """The id of the request's run, which its user may read."""
        run_id, login = _run_id(request), login_of(request)
        if login.run_id != run_id and not login.user.admin:
            owner = await self._store.owner(run_id)
            if not _owns(login.user, owner) and owner.workspace_id not in login.user.workspaces:
                raise _refusal(run_id)
        return run_id

    async def changeable(self, request: Request) -> str:
        """The id of the request's run, which its user may stop, add to and delete."""
        run_id, user = _run_id(request), login_of(request).user
        if not user.admin and not _owns(user, await self._store.owner(run_id)):
            raise _refusal(run_id)
        return run_id

    def check_workspace(self, user: User, workspace_id: str | None) -> None:
        """Refuse to start or list runs in a workspace of others."""
        if workspace_id is not None and workspace_id not in user.workspaces and not user.admin:
            raise Forbidden(f"workspace {workspace_id[:100]!r} is none of yours")


def _run_id(request: Request) -> str:
    return parse_run_id(request.path_params["run_id"])


def _owns(user: User, owner: Owner) -> bool:
    return user.user_id == owner.user_id


def _refusal(run_id: str) -> Forbidden:
    return Forbidden(f"run {run_id} belongs to another user")
