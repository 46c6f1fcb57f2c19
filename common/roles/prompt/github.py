"""What GitHub says of a user, from its REST API through the network, with the server's certificate checked.

Nothing that comes is trusted: bodies, pages and time are bounded, fields have types, and pages are followed on the
API's own host only. Each way it can fail has a sentence of its own.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from common.errors import OnionError
from common.roles.client.client import Client
from common.roles.client.http import FAILURES, NetworkSession, explain
from common.roles.client.wish import Isolation

API = "https://api.github.com"
TIMEOUT = 60.0  # seconds for all questions together
MAX_BODY = 8 * 2**20  # bytes of one answer: a hundred repositories are half a megabyte
MAX_PAGES = 100  # of a hundred repositories each
ISOLATION: Isolation = ("git",)
_USER = re.compile(r"[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38}")
_HEADERS = {
    "Accept": "application/vnd.github+json",
    "User-Agent": "onion-network",  # GitHub refuses requests without one
    "X-GitHub-Api-Version": "2022-11-28",
}


class GitHubError(OnionError):
    """GitHub could not be asked, or did not answer; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Repository:
    """One public repository."""

    name: str
    description: str
    language: str
    stars: int
    fork: bool
    url: str


@dataclass(frozen=True, slots=True)
class Account:
    """A user or organisation; `repositories` is None unless they were asked for."""

    login: str
    name: str
    public_repos: int
    repositories: tuple[Repository, ...] | None = None


def ask(
    client: Client,
    user: str,
    *,
    repositories: bool = False,
    api: str = API,
    timeout: float = TIMEOUT,
    tell: Callable[[str], None] = lambda _text: None,
) -> Account:
    """Asks for a user, and for all repositories if wanted; raises `GitHubError` with a sentence.

    Left by ctrl-c, it ends its streams at once.
    """
    check_user(user)
    api = api.rstrip("/")
    with NetworkSession(client, ISOLATION) as session:
        session.headers.update(_HEADERS)
        questions = _Questions(session, api, timeout)
        try:
            with session.within(timeout):
                tell(f"asking {urlsplit(api).hostname} through the network")
                account = _account(questions.ask(f"{api}/users/{user}", f"GitHub knows no user {user}")[0])
                if not repositories:
                    return account
                return Account(account.login, account.name, account.public_repos, questions.pages(account, tell))
        except FAILURES as error:
            if session.expired:
                raise GitHubError(f"{api} had not answered after {timeout:.0f} seconds: try again") from None
            raise GitHubError(f"GitHub could not be asked: {explain(api, error)}") from None


def check_user(user: str) -> None:
    """Raises `GitHubError` for what can be no user's name."""
    if not _USER.fullmatch(user):
        raise GitHubError(f"{user!r} is no GitHub user name: those have letters, digits and single hyphens")


class _Questions:
    """Requests of one session to one API."""

    def __init__(self, session: NetworkSession, api: str, timeout: float) -> None:
        self._session = session
        self._api = api
        self._timeout = timeout

    def pages(self, account: Account, tell: Callable[[str], None]) -> tuple[Repository, ...]:
        """All repositories, page by page as the Link header says."""
        found: dict[str, Repository] = {}
        url: str | None = f"{self._api}/users/{account.login}/repos?per_page=100&sort=full_name"
        for number in range(1, MAX_PAGES + 1):
            if url is None:
                break
            tell(f"{len(found)} of {account.public_repos} repositories, asking for page {number}")
            value, url = self.ask(url, f"GitHub knows no repositories of {account.login}")
            if not isinstance(value, list):
                raise _nonsense(self._api, "a list of repositories was expected")
            found |= {repository.name: repository for repository in map(_repository, value)}
        return tuple(found.values())

    def ask(self, url: str, not_found: str) -> tuple[Any, str | None]:
        """The JSON at an address, and the address of the next page."""
        with self._session.get(url, stream=True, timeout=self._timeout) as answer:
            self._check(answer, not_found)
            body, cut = self._session.read(answer, MAX_BODY)
        if cut and len(body) == MAX_BODY:
            raise _nonsense(self._api, f"more than {MAX_BODY // 2**20} MiB in one answer")
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise _nonsense(self._api, "it is no JSON") from None
        return value, self._next(answer)

    def _check(self, answer: requests.Response, not_found: str) -> None:
        code = answer.status_code
        if code == 200:
            return
        if code == 404:
            raise GitHubError(f"{not_found}: check the spelling")
        ends = _limited_until(answer)
        if ends is not None:
            raise GitHubError(_limit_sentence(ends - time.time(), ends))
        if code in (401, 403, 429):
            raise GitHubError(f"{self._api} refuses to answer ({code}): `new` may give another exit")
        raise GitHubError(f"{self._api} answers {code} {answer.reason}: try again later")

    def _next(self, answer: requests.Response) -> str | None:
        """The next page; only where the API itself is, whatever an answer says."""
        url = answer.links.get("next", {}).get("url")
        if url is None:
            return None
        here, there = urlsplit(self._api), urlsplit(url)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            raise _nonsense(self._api, "its next page is on another host")
        return url


def _limited_until(answer: requests.Response) -> float | None:
    """When the rate limit ends (seconds since 1970), if that is why there is no answer."""
    if answer.status_code not in (403, 429):
        return None
    after, reset = answer.headers.get("Retry-After", ""), answer.headers.get("X-RateLimit-Reset", "")
    if re.fullmatch(r"[0-9]{1,6}", after):
        return time.time() + int(after)
    if answer.headers.get("X-RateLimit-Remaining") == "0" and re.fullmatch(r"[0-9]{1,11}", reset):
        return float(reset)
    return None


def _limit_sentence(left: float, ends: float) -> str:
    try:
        clock = time.strftime("%H:%M:%S", time.localtime(ends))
    except (OverflowError, ValueError, OSError):
        clock = "an unknown time"
    minutes = max(1, -int(-left // 60))
    wait = f"at {clock}, in {minutes} minute{'s' * (minutes != 1)}"
    return f"GitHub's rate limit for this exit is used up until {wait}: wait, or try `new` for another exit"


def _account(value: Any) -> Account:
    if not isinstance(value, dict):
        raise _nonsense("the API", "a user was expected")
    count = value.get("public_repos")
    if type(count) is not int or not isinstance(value.get("login"), str) or not _USER.fullmatch(value["login"]):
        raise _nonsense("the API", "a user's login and number of repositories are missing")
    return Account(value["login"], _text(value.get("name")), count)


def _repository(value: Any) -> Repository:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise _nonsense("the API", "a repository without a name")
    stars = value.get("stargazers_count")
    return Repository(
        name=_text(value["name"]),
        description=_text(value.get("description")),
        language=_text(value.get("language")),
        stars=stars if type(stars) is int else 0,
        fork=value.get("fork") is True,
        url=_text(value.get("html_url")),
    )


def _text(value: Any) -> str:
    """Printable text: a name must not drive the reader's terminal."""
    return "".join(char if char.isprintable() else " " for char in value)[:500] if isinstance(value, str) else ""


def _nonsense(who: str, what: str) -> GitHubError:
    return GitHubError(f"the answer of {who} makes no sense: {what}; is `github_api` right?")
