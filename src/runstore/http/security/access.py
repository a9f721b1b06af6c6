"""Access to runs: the owner and admins may do everything, auditors and members of the workspace may read.

Of these members, approvers may answer the questions of its runs.

Handlers obtain the id of their run only here, so that none can skip the check.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from starlette.requests import Request

from runstore.core.errors import RunNotFound
from runstore.core.events import AuditedRead, AuditRead
from runstore.core.ids import parse_run_id, parse_uuid, read_run_id
from runstore.core.ports import Head
from runstore.core.run import Owner
from runstore.http.errors import Forbidden
from runstore.http.security.users import Login, User, login_of
from runstore.store.audit_reads import AuditReads
from runstore.store.runs import RunStore

OTHERS_RUNS = "other users' runs"
PAGING = frozenset({"after", "before", "limit", "lastEventId"})  # parameters that are no filters


class Access:
    """Raises the errors of `RunStore.owner`, and Forbidden for another user's run."""

    def __init__(self, store: RunStore, reads: AuditReads) -> None:
        self._store = store
        self._reads = reads

    async def readable(self, request: Request, what: AuditedRead) -> str:
        """The id of the request's run, if its user may read it."""
        return await self.may_read(login_of(request), request.path_params["run_id"], what)

    async def read_head(self, request: Request, what: AuditedRead) -> tuple[str, Head]:
        """The id and the head of the request's run, if its user may read it.

        Admins and auditors also read deleted runs.

        Raises:
            RunNotFound, RunDeleted, RunPurged
        """
        run_id = await self.readable(request, what)
        return run_id, await self._store.head(run_id, deleted=login_of(request).user.reads_all)

    async def may_read(self, login: Login, run_id: str, what: AuditedRead) -> str:
        """The canonical form of a run's id, if this login may read the run.

        Args:
            what: recorded, if the run is another user's and read by the right of an admin or an auditor.
        """
        run_id = parse_run_id(run_id)
        if run_id in login.run_ids:
            return run_id
        user, owner = login.user, await self._store.owner(run_id)
        if not _owns(user, owner) and owner.workspace_id not in user.workspaces:
            if not user.reads_all:
                raise _refusal(run_id)
            if login.known:
                await self._reads.of_run(login.actor, run_id, what)
        return run_id

    async def reads_session(self, login: Login, run_id: str) -> bool:
        """Whether this login may read all runs of a run's session, which may be of several workspaces."""
        return login.user.reads_all or _owns(login.user, await self._store.owner(run_id))

    @asynccontextmanager
    async def searching(
        self, login: Login, what: AuditedRead, parameters: Mapping[str, str]
    ) -> AsyncIterator[None]:
        """A search of all users' runs, by an admin or an auditor; refuses others.

        It is recorded after the block and before the answer, unless the block refuses it.
        """
        self.check_reads_all(login.user, OTHERS_RUNS)
        yield
        await self.may_search(login, what, parameters)

    @asynccontextmanager
    async def reporting(
        self, login: Login, what: AuditedRead, parameters: Mapping[str, str]
    ) -> AsyncIterator[bool]:
        """The same, or a user's question about the user's own runs, which `user_id` names.

        Yields whether it is such a question. Then the answer must leave out deleted runs.
        """
        if not login.user.reads_all and parameters.get("user_id") == login.user.user_id:
            yield True
            return
        async with self.searching(login, what, parameters):
            yield False

    async def may_search(self, login: Login, what: AuditedRead, parameters: Mapping[str, str]) -> None:
        """Record that an admin or an auditor searches all users' runs; refuses others.

        Args:
            parameters: of the request; those of paging and the format are left out. A search in one run
                is recorded as a read of it, too, unless it is only for the run's readers.
        """
        self.check_reads_all(login.user, OTHERS_RUNS)
        if not login.known:
            return
        query = {name: value for name, value in parameters.items() if name not in PAGING}
        await self._reads.of_all(login.actor, what, query)
        stream_id = parse_uuid(parameters.get("run_id", ""))
        if stream_id is not None and parameters.get("types") != AuditRead.type:
            with suppress(RunNotFound):
                await self.may_read(login, read_run_id(stream_id), what)

    async def changeable(self, request: Request) -> str:
        """The id of the request's run, if its user may stop, append to and delete it."""
        return await self.may_change(login_of(request).user, request.path_params["run_id"])

    async def may_change(self, user: User, run_id: str) -> str:
        """The canonical form of a run's id, if this user may change the run."""
        check_changes(user)
        run_id = parse_run_id(run_id)
        if not user.admin and not _owns(user, await self._store.owner(run_id)):
            raise _refusal(run_id)
        return run_id

    async def answerable(self, request: Request) -> str:
        """The id of the request's run, if its user may answer the run's questions."""
        return await self.may_answer(login_of(request), request.path_params["run_id"])

    async def may_answer(self, login: Login, run_id: str) -> str:
        """The canonical form of a run's id, if this login may answer its questions.

        The owner, admins, and the approvers among the members of its workspace may.
        """
        check_changes(login.user)
        run_id = parse_run_id(run_id)
        if run_id in login.run_ids:
            return run_id
        user, owner = login.user, await self._store.owner(run_id)
        member = user.approver and owner.workspace_id in user.workspaces
        if not (user.admin or member or _owns(user, owner)):
            raise _refusal(run_id)
        return run_id

    def check_reads_all(self, user: User, what: str) -> None:
        """Refuse users that may read only their own runs and those of their workspaces."""
        if not user.reads_all:
            raise Forbidden(f"{what}: only admins and auditors may read them")

    def check_workspace(self, user: User, workspace_id: str | None) -> None:
        """Refuse to start or list runs in another user's workspace."""
        if workspace_id is not None and workspace_id not in user.workspaces and not user.reads_all:
            raise Forbidden(f"you are not a member of workspace {workspace_id[:100]!r}")


def check_changes(user: User) -> None:
    """Refuse every change by an auditor, also of an auditor's own runs."""
    if not user.changes:
        raise Forbidden("an auditor reads everything, and changes nothing")


def _owns(user: User, owner: Owner) -> bool:
    return user.user_id == owner.user_id


def _refusal(run_id: str) -> Forbidden:
    return Forbidden(f"run {run_id} belongs to another user")
