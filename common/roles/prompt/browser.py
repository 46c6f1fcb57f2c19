"""A page in the user's own browser, through the network and by no other way.

The browser is started with a fresh profile, which is removed when it ends, and a private proxy port as its only
way out: names are looked up at the exit, requests to this machine and its neighbours go to the exit too (where the
policy refuses them), QUIC and WebRTC's own paths are off, and so is what a browser does by itself in the
background. The port listens on loopback while the browser runs. Each browser has circuits of its own.

Not protected: how the browser looks to a site (its fingerprint), and other users of this machine, who could use
the port while it is open. Nothing is ever opened on the exit's machine.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.directory.addresses import Address
from common.errors import EndReason, OnionError
from common.net.deadline import Deadline
from common.net.pump import Pump
from common.roles.client.client import Client
from common.roles.client.wish import Isolation, Opening, Question
from common.roles.proxy.proxy import Proxy

AUTOMATIC, NONE = "auto", "none"
END_TIME = 5.0  # seconds a browser has to end before it is killed
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "brave-browser")
_FIREFOX = ("firefox", "firefox-esr", "librewolf")

# What Chromium is told; `--user-data-dir` and the proxy are added. Each line closes one way around the proxy.
CHROMIUM_FLAGS = (
    "--disable-quic",  # UDP goes through no proxy
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",  # WebRTC only through the proxy: no local address
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",  # the same, as older ones call it
    "--dns-prefetch-disable",
    "--disable-features=AsyncDns,DnsOverHttps,OptimizationHints,MediaRouter,InterestFeedContentSuggestions,"
    "CertificateTransparencyComponentUpdater,Translate,NetworkTimeServiceQuerying,AutofillServerCommunication,"
    "DialMediaRouteProvider,PreconnectToSearch,NavigationPredictor",
    "--disable-background-networking",  # updates, safe browsing, field trials
    "--disable-component-update",
    "--component-updater=url-source=https://updates.invalid/",  # it asks all the same: nobody, then
    "--gaia-url=https://accounts.invalid/",  # whom it asks who is logged in; pages of that company still work
    "--google-apis-url=https://apis.invalid/",
    "--disable-component-extensions-with-background-pages",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-domain-reliability",  # reports of failed loads
    "--disable-breakpad",  # crash reports
    "--disable-client-side-phishing-detection",
    "--metrics-recording-only",
    "--no-pings",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-service-autorun",
    "--password-store=basic",
)

# What Firefox is told in `user.js`; the proxy's port is added.
FIREFOX_PREFS: dict[str, bool | int | str] = {
    "network.proxy.type": 1,
    "network.proxy.socks": "127.0.0.1",
    "network.proxy.socks_version": 5,
    "network.proxy.socks_remote_dns": True,
    "network.proxy.failover_direct": False,
    "network.proxy.allow_hijacking_localhost": True,  # this machine's own servers, too, only through the proxy
    "network.dns.disablePrefetch": True,
    "network.dns.disablePrefetchFromHTTPS": True,
    "network.prefetch-next": False,
    "network.predictor.enabled": False,
    "network.http.speculative-parallel-limit": 0,
    "network.trr.mode": 5,  # no DNS over HTTPS
    "network.http.http3.enable": False,  # QUIC
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "media.peerconnection.enabled": False,  # WebRTC
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.aboutwelcome.enabled": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "browser.newtabpage.enabled": False,
    "browser.search.update": False,
    "browser.region.update.enabled": False,
    "browser.urlbar.suggest.searches": False,
    "app.update.enabled": False,
    "app.normandy.enabled": False,
    "app.shield.optoutstudies.enabled": False,
    "extensions.update.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "extensions.blocklist.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.enabled": False,
    "toolkit.telemetry.unified": False,
    "toolkit.telemetry.server": "data:,",
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.push.connection.enabled": False,
    "geo.enabled": False,
}


class BrowserError(OnionError):
    """A browser could not be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """A browser on this machine."""

    path: str
    firefox: bool

    @property
    def name(self) -> str:
        """What people call it."""
        return Path(self.path).name

    def command(self, profile: Path, proxy: Address, url: str, local: Address | None) -> list[str]:
        """How it is started; the profile is written where it needs one. `local` alone is reached without proxy."""
        if self.firefox:
            prefs = dict(FIREFOX_PREFS)
            prefs["network.proxy.socks_port"] = proxy.port
            prefs["network.proxy.no_proxies_on"] = str(local) if local is not None else ""
            lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in prefs.items()]
            (profile / "user.js").write_text("".join(lines))
            return [self.path, "--no-remote", "--profile", str(profile), url]
        bypass = f"<-loopback>;{local}" if local is not None else "<-loopback>"
        return [
            self.path,
            f"--user-data-dir={profile}",
            f"--proxy-server=socks5://{proxy}",
            f"--proxy-bypass-list={bypass}",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # it looks up nothing by itself
            *CHROMIUM_FLAGS,
            url,
        ]


def find(wanted: str = AUTOMATIC) -> Program | None:
    """The browser to use: `wanted` is auto, none, a name or a path. None when there is none, or no screen for it.

    Raises `BrowserError` when one is asked for by name and is not there.
    """
    if wanted == NONE:
        return None
    if wanted != AUTOMATIC:
        path = shutil.which(wanted)
        if path is None:
            raise BrowserError(f"there is no browser {wanted}: give a path, `auto` or `none` as `browser`")
        return Program(path, any(name in Path(path).name for name in _FIREFOX))
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    for name in (*_CHROMIUM, *_FIREFOX):
        path = shutil.which(name)
        if path is not None and not (os.geteuid() == 0 and name in _CHROMIUM):  # as root it has no sandbox
            return Program(path, name in _FIREFOX)
    return None


class _Isolated:
    """A client whose streams all have one isolation, nobody else's."""

    def __init__(self, client: Client) -> None:
        self.pump: Pump = client.pump
        self._client = client
        self._isolation: Isolation = ("browser", secrets.token_hex(8))

    def open(self, opening: Opening) -> None:
        """See `Client`; what must not be found (RFC 6761, section 6.4) is not even asked for."""
        if opening.host.lower().endswith(".invalid"):
            opening.fail(EndReason.NOT_FOUND)
            return
        opening.isolation = self._isolation
        self._client.open(opening)

    def ask(self, question: Question) -> None:
        """See `Client`."""
        question.isolation = self._isolation
        self._client.ask(question)


class Browser:
    """One running browser; use `with`, or `close`: what it leaves on the disk is then removed."""

    def __init__(
        self,
        client: Client,
        program: Program,
        url: str,
        *,
        local: Address | None = None,
        extra: Sequence[str] = (),
        output: int = subprocess.DEVNULL,
    ) -> None:
        """Starts it; raises `BrowserError`. `local`: the client's own page on loopback, which needs no proxy."""
        self._proxy = Proxy(_Isolated(client), Address("127.0.0.1", 0))
        self._profile = Path(tempfile.mkdtemp(prefix="onion-network-browser-"))  # mode 0700
        self._closing = threading.Lock()  # guards `_closed`
        self._closed = False
        command = program.command(self._profile, self._proxy.address, url, local)
        command[-1:] = [*extra, command[-1]]
        try:
            self._proxy.start()
            # A session of its own: ctrl-c is the client's, and all its processes can be ended together.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env=_environment(),
            )
        except OSError as error:
            self._tidy()
            raise BrowserError(f"{program.path} cannot be started: {error.strerror}") from None
        except BaseException:
            self._tidy()
            raise

    @property
    def profile(self) -> Path:
        """Its folder, until it is closed."""
        return self._profile

    @property
    def proxy_address(self) -> Address:
        """Its private port."""
        return self._proxy.address

    def wait(self, seconds: float | None = None) -> int | None:
        """Until the user closes it, or as long as given: its exit code, None while it runs."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def tidy_when_closed(self) -> None:
        """Tidies up as soon as the user closes it; returns at once."""

        def watch() -> None:
            self.process.wait()
            self.close()

        threading.Thread(target=watch, name="browser", daemon=True).start()

    def close(self) -> None:
        """Ends it if it runs, its port, and what it left. Idempotent."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._end()
            self._tidy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        """Also its helpers, which may outlive it."""
        self._signal(signal.SIGTERM)
        try:
            self.process.wait(END_TIME)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)
        self.process.wait(END_TIME)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # all gone

    def _tidy(self) -> None:
        self._proxy.stop()
        deadline = Deadline(END_TIME)
        while self._profile.exists() and not deadline.expired:  # a dying helper may still write
            shutil.rmtree(self._profile, ignore_errors=True)


def _environment() -> dict[str, str]:
    """Ours, without what would lead around the proxy or leave keys behind, and without our own settings."""
    dropped = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "sslkeylogfile")
    names = (name for name in os.environ if name.lower() not in dropped and not name.startswith("TOR_NETWORK_"))
    return {name: os.environ[name] for name in names}
