"""Who may do what with a run: its owner and admins everything, members of its workspace may read it.

Handlers get the id of their run from here and nowhere else, so that none forgets to ask.
"""

from starlette.requests import Request

from runstore.core.ids import parse_run_id
from runstore.http.errors import Forbidden
from runstore.http.security.users import Login, User, login_of
from runstore.store.runs import Owner, RunStore


class Access:
    """Raises what `RunStore.owner` does, and Forbidden for a run that is another's."""

    def __init__(self, store: RunStore) -> None:
        self._store = store

    async def readable(self, request: Request) -> str:
        """The id of the request's run, which its user may read."""
        return await self.may_read(login_of(request), request.path_params["run_id"])

    async def may_read(self, login: Login, run_id: str) -> str:
        """The canonical form of the id of a run that may be read with this login."""
        run_id = parse_run_id(run_id)
        if run_id not in login.run_ids and not login.user.admin:
            owner = await self._store.owner(run_id)
            if not _owns(login.user, owner) and owner.workspace_id not in login.user.workspaces:
                raise _refusal(run_id)
        return run_id

    async def changeable(self, request: Request) -> str:
        """The id of the request's run, which its user may stop, add to and delete."""
        return await self.may_change(login_of(request).user, request.path_params["run_id"])

    async def may_change(self, user: User, run_id: str) -> str:
        """The canonical form of the id of a run that this user may change."""
        run_id = parse_run_id(run_id)
        if not user.admin and not _owns(user, await self._store.owner(run_id)):
            raise _refusal(run_id)
        return run_id

    def check_workspace(self, user: User, workspace_id: str | None) -> None:
        """Refuse to start or list runs in a workspace of others."""
        if workspace_id is not None and workspace_id not in user.workspaces and not user.admin:
            raise Forbidden(f"workspace {workspace_id[:100]!r} is none of yours")


def _owns(user: User, owner: Owner) -> bool:
    return user.user_id == owner.user_id


def _refusal(run_id: str) -> Forbidden:
    return Forbidden(f"run {run_id} belongs to another user")
