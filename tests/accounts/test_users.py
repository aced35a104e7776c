"""Accounts: who gets in, who is kept out, and what ends with what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import structs

from agentauri.accounts import (
    AccessTokens,
    AccountChanges,
    ApiKeyService,
    AuditFilter,
    AuditTrail,
    Caller,
    InvalidToken,
    LoggedIn,
    OrganizationService,
    PasswordHasher,
    Registration,
    Sessions,
    Standings,
    UserPrincipal,
    UserService,
)
from agentauri.accounts.errors import (
    AccountDisabled,
    AccountLocked,
    EmailExists,
    InvalidCredentials,
    InvalidRefreshToken,
    OwnerOfOrganizations,
    UsernameExists,
)
from agentauri.accounts.lockout import name_hash
from agentauri.database import Database, Transaction
from agentauri.errors import Invalid
from agentauri.metrics import REGISTRY
from agentauri.types import OrganizationId, Page, Secret, UserId

PASSWORD = Secret("correct horse battery")
HERE = Caller(address="192.0.2.1", user_agent="test/1", route="/auth/login", request_id="r-1")
THERE = Caller(address="192.0.2.2", user_agent=None, route="/auth/login", request_id=None)


async def end_nothing(_: Transaction, __: OrganizationId) -> None:
    """There is nothing outside of accounts here."""


class House:
    """The services of accounts, as the application puts them together."""

    def __init__(self, database: Database, hasher: PasswordHasher) -> None:
        self.database = database
        self.tokens = AccessTokens(Secret("a secret of at least thirty-two bytes 0123"))
        self.sessions = Sessions()
        self.standings = Standings()
        self.audit = AuditTrail()
        keys = ApiKeyService(Secret("a pepper that is only used in tests 0123456789"), self.audit)
        self.organizations = OrganizationService(keys, self.standings, self.audit, end_nothing)
        self.users = UserService(
            database, hasher, self.tokens, self.sessions, self.standings, self.audit, self.organizations
        )

    async def register(self, who: str = "Alice", **changes: Any) -> LoggedIn:
        values: dict[str, Any] = {"username": who, "email": f"{who}@example.org", "password": PASSWORD}
        return await self.users.register(Registration(**(values | changes)), HERE)

    async def log_in(self, name: str = "Alice", password: Secret = PASSWORD, caller: Caller = HERE) -> LoggedIn:
        return await self.users.log_in(name, password, caller)

    async def principal(self, of: LoggedIn) -> UserPrincipal:
        """Whom the access token stands for."""
        claims = self.tokens.read(of.token.reveal())
        remembered = self.sessions.remembered(claims)
        if remembered is not None:
            return remembered
        async with self.database.transaction() as tx:
            return await self.sessions.recognise(tx, claims)

    async def told(self, user_id: UserId) -> list[str]:
        """The events of her audit rows, oldest first."""
        async with self.database.transaction() as tx:
            page = await self.audit.of_user(tx, user_id, AuditFilter(order="asc"), Page(limit=100))
        return [entry.event for entry in page.data]


@pytest.fixture(scope="module")
def hasher() -> PasswordHasher:
    return PasswordHasher(2)


@pytest.fixture
async def house(database: Database, hasher: PasswordHasher) -> House:
    return House(database, hasher)


async def test_registering_makes_a_user_with_a_personal_organization_and_a_session(house: House) -> None:
    made = await house.register("Alice")

    principal = await house.principal(made)
    async with house.database.transaction() as tx:
        standing = await house.standings.find(tx, principal, None)
    assert (principal.username, made.user.email) == ("Alice", "Alice@example.org")
    assert (standing.role, standing.plan) == ("owner", "free")
    assert standing.may("admin:all")
    assert made.refresh_token.reveal().startswith("urt_")
    assert await house.told(made.user.id) == ["account.registered", "account.logged_in"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"username": "al"}, "username"),
        ({"username": "-alice"}, "username"),
        ({"username": "al ice"}, "username"),
        ({"email": "alice"}, "email"),
        ({"email": "a@b@c"}, "email"),
        ({"email": "a b@c"}, "email"),
        ({"email": "a" * 251 + "@b.c"}, "email"),
        ({"password": Secret("eleven char")}, "password"),
        ({"password": Secret("x" * 129)}, "password"),
        ({"password": Secret("1Q2W3E4R5T6Y")}, "password"),
        ({"password": Secret("my-ALICE-password")}, "password"),
        ({"name": " "}, "name"),
    ],
)
async def test_a_registration_that_breaks_a_rule_names_the_field(
    house: House, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Invalid) as refused:
        await house.register(**changes)

    assert [error.field for error in refused.value.errors] == [field]


async def test_a_name_or_an_email_that_somebody_has_is_refused_in_any_case_of_letters(house: House) -> None:
    await house.register("Alice")

    with pytest.raises(UsernameExists):
        await house.register("alice", email="other@example.org")
    with pytest.raises(EmailExists):
        await house.register("Bob", email="ALICE@EXAMPLE.ORG")


async def test_of_many_who_want_a_name_at_once_one_gets_it(house: House) -> None:
    tries = [house.register("Alice", email=f"a{number}@example.org") for number in range(8)]

    results = await asyncio.gather(*tries, return_exceptions=True)

    assert sum(isinstance(one, LoggedIn) for one in results) == 1
    assert sum(isinstance(one, UsernameExists) for one in results) == 7


async def test_every_hash_is_measured(hasher: PasswordHasher) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("agentauri_password_hash_seconds_count") or 0.0

    before = count()

    stored = await hasher.hash(PASSWORD.reveal())
    assert await hasher.verify(PASSWORD.reveal(), stored) == (True, None)
    assert await hasher.verify("wrong wrong wrong", stored) == (False, None)

    assert count() >= before + 3


async def test_one_logs_in_by_name_or_email_in_any_case_of_letters(house: House) -> None:
    await house.register("Alice")

    for name in ("Alice", "ALICE", "alice@EXAMPLE.org"):
        assert (await house.log_in(name)).user.username == "Alice"


async def test_unknown_names_wrong_passwords_and_accounts_without_one_are_the_same_to_the_caller(house: House) -> None:
    made = await house.register("Alice")
    async with house.database.transaction() as tx:
        await tx.run("INSERT INTO users (id, username) VALUES ('op', 'operator')")

    messages = set()
    for name, password in (("Alice", Secret("wrong wrong wrong")), ("nobody", PASSWORD), ("operator", PASSWORD)):
        with pytest.raises(InvalidCredentials) as refused:
            await house.log_in(name, password)
        messages.add(refused.value.message)
    assert len(messages) == 1
    assert "account.login_failed" in await house.told(made.user.id)


async def test_a_disabled_account_is_told_so_only_to_who_knows_its_password_and_its_tokens_end(house: House) -> None:
    made = await house.register("Alice")
    async with house.database.transaction() as tx:
        await house.users.set_active(tx, "alice", active=False)

    with pytest.raises(AccountDisabled):
        await house.log_in("Alice")
    with pytest.raises(InvalidCredentials):
        await house.log_in("Alice", Secret("wrong wrong wrong"))
    with pytest.raises(InvalidToken):
        await house.principal(made)
    with pytest.raises(InvalidRefreshToken):
        await house.users.refresh(made.refresh_token, HERE)


async def test_the_fifth_failure_locks_the_name_from_there_and_nowhere_else(house: House) -> None:
    await house.register("Alice")
    for _ in range(5):
        with pytest.raises(InvalidCredentials):
            await house.log_in("alice", Secret("wrong wrong wrong"))

    with pytest.raises(AccountLocked) as locked:
        await house.log_in("Alice")
    assert 890 < locked.value.retry_after <= 900
    assert (await house.log_in("Alice", caller=THERE)).user.username == "Alice"


async def test_a_lock_holds_for_the_whole_64_of_an_ipv6_address(house: House) -> None:
    await house.register("Alice")
    for number in range(5):
        somewhere = structs.replace(HERE, address=f"2001:db8::{number}")
        with pytest.raises(InvalidCredentials):
            await house.log_in("alice", Secret("wrong wrong wrong"), somewhere)

    with pytest.raises(AccountLocked):
        await house.log_in("alice", caller=structs.replace(HERE, address="2001:db8::ffff:1"))
    in_another = await house.log_in("alice", caller=structs.replace(HERE, address="2001:db8:0:1::1"))
    assert in_another.user.username == "Alice"


async def test_names_that_nobody_has_are_locked_too(house: House) -> None:
    for _ in range(5):
        with pytest.raises(InvalidCredentials):
            await house.log_in("nobody")
    with pytest.raises(AccountLocked):
        await house.log_in("nobody")


async def test_any_number_of_tries_at_once_are_no_more_than_five(house: House) -> None:
    await house.register("Alice")
    tries = [house.log_in("Alice", Secret(f"wrong wrong wrong {number}")) for number in range(20)]

    results = await asyncio.gather(*tries, return_exceptions=True)

    assert sum(isinstance(one, InvalidCredentials) for one in results) == 5
    assert sum(isinstance(one, AccountLocked) for one in results) == 15


async def test_each_further_lock_is_twice_as_long_up_to_four_hours_and_a_day_takes_one_level_off(house: House) -> None:
    async def fail_until_locked() -> float:
        for _ in range(6):
            try:
                await house.log_in("nobody")
            except AccountLocked as locked:
                return locked.retry_after
            except InvalidCredentials:
                continue
        raise AssertionError("never locked")

    async def later(hours: float) -> None:
        async with house.database.transaction() as tx:
            await tx.run(
                """UPDATE lockouts SET locked_until = locked_until - make_interval(secs => $1),
                          window_start = window_start - make_interval(secs => $1),
                          last_failure_at = last_failure_at - make_interval(secs => $1)""",
                hours * 3600,
            )

    waits = []
    for _ in range(6):
        waits.append(round(await fail_until_locked() / 60))
        await later(4.1)
    assert waits == [15, 30, 60, 120, 240, 240]
    await later(24)
    assert round(await fail_until_locked() / 60) == 120


async def test_a_success_takes_the_failures_away(house: House) -> None:
    await house.register("Alice")
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(InvalidCredentials):
                await house.log_in("Alice", Secret("wrong wrong wrong"))
        await house.log_in("Alice")


async def test_an_account_under_siege_opens_only_to_addresses_that_it_knows(house: House) -> None:
    await house.register("Alice")
    async with house.database.transaction() as tx:
        await tx.run(
            """INSERT INTO auth_failures (kind, prefix, address)
               SELECT 'password', left($1, 16), 'x' FROM generate_series(1, 101)""",
            name_hash("alice"),
        )

    with pytest.raises(AccountLocked):
        await house.log_in("Alice", caller=THERE)
    assert (await house.log_in("Alice", caller=HERE)).user.username == "Alice"


async def test_a_refresh_token_is_good_once_and_its_return_ends_the_session(house: House) -> None:
    first = await house.register("Alice")
    second = await house.users.refresh(first.refresh_token, HERE)
    await house.principal(second)

    with pytest.raises(InvalidRefreshToken):
        await house.users.refresh(first.refresh_token, THERE)

    with pytest.raises(InvalidRefreshToken):
        await house.users.refresh(second.refresh_token, HERE)
    with pytest.raises(InvalidToken):
        await house.principal(second)
    assert "session.reuse_detected" in await house.told(first.user.id)


async def test_of_two_who_refresh_at_once_one_wins(house: House) -> None:
    made = await house.register("Alice")

    results = await asyncio.gather(
        *(house.users.refresh(made.refresh_token, HERE) for _ in range(4)), return_exceptions=True
    )

    assert sum(isinstance(one, LoggedIn) for one in results) == 1


async def test_the_eleventh_session_ends_the_oldest(house: House) -> None:
    first = await house.register("Alice")
    others = [await house.log_in("Alice") for _ in range(10)]

    with pytest.raises(InvalidToken):
        await house.principal(first)
    await house.principal(others[0])
    async with house.database.transaction() as tx:
        assert len(await house.sessions.list(tx, first.user.id)) == 10


async def test_logging_out_ends_this_session_and_everywhere_ends_all(house: House) -> None:
    one, two = await house.register("Alice"), await house.log_in("Alice")

    await house.users.log_out(await house.principal(one), None, HERE, everywhere=False)
    with pytest.raises(InvalidToken):
        await house.principal(one)
    await house.principal(two)
    await house.users.log_out(None, two.refresh_token, HERE, everywhere=True)
    with pytest.raises(InvalidToken):
        await house.principal(two)
    await house.users.log_out(None, Secret("urt_unknown"), HERE, everywhere=True)


async def test_a_new_password_takes_the_old_one_and_ends_the_other_sessions(house: House) -> None:
    here, elsewhere = await house.register("Alice"), await house.log_in("Alice", caller=THERE)
    principal = await house.principal(here)

    for wrong in (None, Secret("wrong wrong wrong")):
        with pytest.raises(InvalidCredentials):
            await house.users.change_password(principal, wrong, Secret("another long password"), HERE)
    await house.users.change_password(principal, PASSWORD, Secret("another long password"), HERE)

    await house.principal(here)
    with pytest.raises(InvalidToken):
        await house.principal(elsewhere)
    with pytest.raises(InvalidCredentials):
        await house.log_in("Alice")
    await house.log_in("Alice", Secret("another long password"))


async def test_a_new_name_takes_the_password_and_a_display_name_does_not(house: House) -> None:
    principal = await house.principal(await house.register("Alice"))
    await house.register("Bob")

    assert (await house.users.change(principal, AccountChanges(name="Alice A."), HERE)).name == "Alice A."
    with pytest.raises(InvalidCredentials):
        await house.users.change(principal, AccountChanges(username="alicia"), HERE)
    with pytest.raises(UsernameExists):
        await house.users.change(principal, AccountChanges(username="BOB", current_password=PASSWORD), HERE)
    changed = await house.users.change(principal, AccountChanges(username="alicia", current_password=PASSWORD), HERE)
    assert (changed.username, changed.name) == ("alicia", "Alice A.")


async def test_who_owns_an_organization_with_others_in_it_cannot_be_deleted(house: House) -> None:
    alice, bob = await house.register("Alice"), await house.register("Bob")
    principal = await house.principal(alice)
    async with house.database.transaction() as tx:
        standing = await house.standings.find(tx, principal, None)
        await tx.run(
            "INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, 'viewer')",
            standing.organization_id,
            bob.user.id,
        )

    with pytest.raises(OwnerOfOrganizations):
        await house.users.delete(principal, PASSWORD, HERE)
    await house.users.delete(await house.principal(bob), PASSWORD, HERE)
    await house.users.delete(principal, PASSWORD, HERE)

    with pytest.raises(InvalidCredentials):
        await house.log_in("Alice")
    assert "account.deleted" in await house.told(alice.user.id)
    async with house.database.transaction() as tx:
        ended = await tx.fetchrow(
            "SELECT actor_id, details FROM audit_log WHERE event = 'organization.deleted' AND organization_id = $1",
            standing.organization_id,
        )
    assert ended is not None
    assert (ended["actor_id"], ended["details"]) == (alice.user.id, "{}")


async def test_the_operator_hands_out_a_new_password_and_every_session_ends(house: House) -> None:
    made = await house.register("Alice")

    _, password = await house.users.reset_password("ALICE")

    with pytest.raises(InvalidToken):
        await house.principal(made)
    assert (await house.log_in("Alice", password)).user.id == made.user.id
