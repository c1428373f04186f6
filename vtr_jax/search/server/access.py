"""Access to the server: from this machine, or with the token."""

import hmac
import ipaddress
import re
import secrets
from email.message import Message

from vtr_jax.core.config import require
from vtr_jax.search.server.delivery import HTTPError

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_local(host: str) -> bool:
  """Whether a server bound to `host` is reached from this machine alone."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


class Access:
  """Grants or denies access to a request by its headers.

  Without a token, only this machine can connect, but pages of other sites could make
  its browser do so: by their own host name with this address (DNS rebinding), or by a
  link or an image. `Host` reveals the first, `Sec-Fetch-Site` the second.

  Args:
    host: that the server is bound to.
    token: that requests must carry; "" = none if `host` is local, else a random one.

  Raises:
    ConfigError: the token is too short, or has characters that a URL cannot hold.
  """

  def __init__(self, host: str, token: str = ""):
    require(
      re.fullmatch(r"([\w.~-]{16,256})?", token, re.ASCII) is not None,
      "--token: must be 16 to 256 letters, digits or -._~",  # ours
    )
    self.token = token or ("" if is_local(host) else secrets.token_urlsafe(24))
    self._names = {*_LOCAL_NAMES, host, f"[{host}]"}

  def check(self, headers: Message, cookie: str, opens_page: bool) -> None:
    """Raises HTTPError unless access is granted.

    Args:
      headers: of the request.
      cookie: name of the cookie with the token.
      opens_page: whether the request opens the page, which links of others may do.
    """
    if not self.token:
      host = re.sub(r":[0-9]*$", "", headers.get("Host", ""))
      if host.lower() not in self._names:
        raise HTTPError(
          403, "this page is for its own machine; serve with --token to open it"
        )
    cross_site = headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if cross_site and not opens_page:
      raise HTTPError(403, "requested by another page")
    if self.token and not self.accepts(_cookies(headers).get(cookie, "")):
      raise HTTPError(401, "open the address with the token that `serve` printed")

  def accepts(self, token: str) -> bool:
    """Whether the token is right; compares in constant time."""
    return hmac.compare_digest(token.encode(), self.token.encode())


def _cookies(headers: Message) -> dict[str, str]:
  pairs = (part.split("=", 1) for part in headers.get("Cookie", "").split(";"))
  return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}
