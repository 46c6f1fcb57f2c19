"""How often a password may be tried: rules only; a state goes in and comes out, and somebody else keeps it.

A stranger is whoever shows no device token of the account. All strangers of an account share one `Tries`, since
through the network nobody can tell them apart:

* the first `FREE_TRIES` may come at once; then each must wait after the last one 1, 2, 4 ... s, `LONGEST_WAIT` at
  most. That is at most `TRIES_PER_MINUTE` in any 60 s, and one more for each further `LONGEST_WAIT`;
* one try is forgotten for each `FORGOTTEN_AFTER` that passes without another;
* a try counts when it begins (so many at the same time win nothing) and is given back if the password was right;
* a try that comes too early is told how long to wait, and changes nothing: being hasty is not punished.

A device token says that its holder has logged in before. Its tries are counted on their own, and no stranger
delays them: who tries passwords at an account does not lock its owner out. After `DEVICE_TRIES` without the right
password a token is spent, and its holder is a stranger, until the right password comes with it.

What remains: while somebody keeps trying, an owner on a new device competes with that person for the next try. And
a thief of a token has `DEVICE_TRIES` more after each login of the owner with the same one.

Unix time (`now`) is an argument, and may jump. Backwards it makes no wait longer than `LONGEST_WAIT`, and allows
nothing earlier. An unknown name has a `Tries` as a known one has, or the waiting would tell them apart.
"""

from dataclasses import dataclass

FREE_TRIES = 5
LONGEST_WAIT = 30.0  # seconds; strangers have 2,880 tries a day, all of them together
TRIES_PER_MINUTE = 10  # follows from the rest
FORGOTTEN_AFTER = 60.0  # seconds for each try; longer than LONGEST_WAIT, or waiting would win something
DEVICE_TRIES = 5
TRIES_PER_CONNECTION = 5  # a password is mistyped less often; each further connection costs a circuit
_MOST = FREE_TRIES + 5  # counted tries; from here on each waits for LONGEST_WAIT
KEPT = _MOST * FORGOTTEN_AFTER  # seconds after which the tries of strangers say nothing and need not be kept


@dataclass(frozen=True, slots=True)
class Tries:
    """Tries that have not shown the right password, and when the last one began (Unix time): a row of a table."""

    count: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a try: after 0 seconds it goes on; and what to keep, whether it does or not.

    `by_device` says whose try it is, for `succeeded`.
    """

    wait: float
    account: Tries
    device: Tries | None
    by_device: bool


def admit(account: Tries, device: Tries | None, now: float) -> Verdict:
    """Counts a try that begins now, or says how long to wait (up to `LONGEST_WAIT`).

    `account` are the tries of all strangers; `device` those with the valid token that this try shows, if any.
    """
    if device is not None and device.count < DEVICE_TRIES:
        return Verdict(0.0, account, Tries(device.count + 1, now), True)
    left = _remembered(account, now)
    wait = left.at + _pause(left.count) - now
    if wait > 0:
        return Verdict(wait, left, device, False)
    return Verdict(0.0, Tries(min(left.count + 1, _MOST), now), device, False)


def succeeded(account: Tries, device: Tries | None, by_device: bool) -> tuple[Tries, Tries | None]:
    """What to keep once a try has shown the right password: the tries of strangers, and of the token it showed.

    The states are those of now; other tries may have begun since `admit`.
    """
    if not by_device:
        account = Tries(max(0, account.count - 1), account.at)
    return account, None if device is None else Tries()


def _pause(count: int) -> float:
    """Seconds from the last of `count` tries to the next."""
    return min(2.0 ** (count - FREE_TRIES), LONGEST_WAIT) if count >= FREE_TRIES else 0.0


def _remembered(tries: Tries, now: float) -> Tries:
    """Without what is forgotten by now; a last try in the future (the clock was set back) becomes one of now."""
    if now < tries.at:
        return Tries(tries.count, now)
    forgotten = int((now - tries.at) / FORGOTTEN_AFTER)
    return Tries(max(0, tries.count - forgotten), tries.at)
