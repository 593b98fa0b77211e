"""What a handler is given: an admitted request whose parameters and body keep the contract, and whose token is good."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from handlers.services import Services
from tenancy import access
from tenancy.authentication import Claims
from tenancy.errors import InvalidToken, RateLimited
from tenancy.rate_limits import Usage


@dataclass(frozen=True, slots=True)
class Request:
    """`state` is the edge's: what is written there reaches the log and the headers of the answer. `headers` by
    lower-case name; `target` is the raw path and query; `body` the raw bytes, as a signature covers them."""

    services: Services
    state: MutableMapping[str, Any]
    claims: Claims | None
    headers: Mapping[str, str]
    tenant_id: str | None
    target: str
    body: bytes

    def check_limit(self) -> None:
        """Refuse, before anything is done for it, what is known to be past the limit of its token's agency. Raises
        RateLimited, and TenantMalformed where the request names two agencies."""
        if self.claims is None:
            return
        access.named_agency(header=self.headers.get("x-tenant-id"), query=self.tenant_id)
        usage = self.services.rate_limits.known_to_exceed(self.claims.agency_id)
        if usage is not None:
            self._obey(usage)

    def _obey(self, usage: Usage) -> None:
        self.state["rate_limits"] = usage.quotas  # for the headers of the answer, whatever it will be
        if usage.retry_after is not None:
            raise RateLimited(usage.retry_after)

    @contextmanager
    def open_inbox(self, *, sending: bool = False) -> Iterator[access.Inbox]:
        """The transaction of the agency that the request acts for; see `tenancy.access.open_inbox`."""
        if self.claims is None:  # an operation that asks for no token has no agency
            raise InvalidToken
        tenant_header = self.headers.get("x-tenant-id")
        acts_for = access.named_agency(header=tenant_header, query=self.tenant_id) or self.claims.agency_id
        # A request that is being done again is one request.
        counted: dict[UUID, Usage] = self.state.setdefault("counted", {})

        def count(agency_id: UUID, sends: bool) -> None:
            if agency_id not in counted:
                counted[agency_id] = self.services.rate_limits.spend(agency_id, sending=sends)
            if agency_id == acts_for or counted[agency_id].retry_after is not None:
                self._obey(counted[agency_id])

        with access.open_inbox(
            self.services.database,
            self.claims,
            header=tenant_header,
            query=self.tenant_id,
            sending=sending,
            count=count,
        ) as inbox:
            self.state["agency_id"] = str(inbox.connection.agency_id)  # for the log
            yield inbox
