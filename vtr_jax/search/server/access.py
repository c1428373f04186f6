"""Who may ask: this machine, or whoever knows the token."""

import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping

from vtr_jax.core.config import require
from vtr_jax.search.server.delivery import Refused

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_local(host: str) -> bool:
  """Whether a server bound to `host` is reached from this machine alone."""
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == "localhost"


class Access:
  """Decides about a request by its headers alone.

  Without a token, only this machine can connect, but pages of others could make its
  browser do so: by a name of theirs that leads here (DNS rebinding), or by a link or
  a picture. The first shows in `Host`, the second in `Sec-Fetch-Site`.

  Args:
    host: that the server is bound to.
    token: what a request must bring; "" asks for none on this machine, and elsewhere
      makes one.

  Raises:
    ConfigError: a token is too short, or has signs that an address cannot hold.
  """

  def __init__(self, host: str, token: str = ""):
    require(
      re.fullmatch(r"([\w.~-]{16,256})?", token, re.ASCII) is not None,
      "--token: must be 16 to 256 letters, digits or -._~",  # ours
    )
    self.token = token or ("" if is_local(host) else secrets.token_urlsafe(24))
    self._names = {*_LOCAL_NAMES, host, f"[{host}]"}

  def check(self, headers: Mapping[str, str], cookie: str, entering: bool) -> None:
    """Raises Refused unless the request may be answered.

    Args:
      headers: of the request.
      cookie: name of the one that holds the token.
      entering: whether the request opens the page, and may come from elsewhere.
    """
    if not self.token:
      host = re.sub(r":[0-9]*$", "", headers.get("Host", ""))
      if host.lower() not in self._names:
        raise Refused(
          403, "this page is for its own machine; serve with --token to open it"
        )
    elsewhere = headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if elsewhere and not entering:
      raise Refused(403, "another page asked for this")
    if self.token and not self.knows(_cookies(headers).get(cookie, "")):
      raise Refused(401, "open the address with the token that `serve` has printed")

  def knows(self, token: str) -> bool:
    """Compares in a time that tells nothing."""
    return hmac.compare_digest(token.encode(), self.token.encode())


def _cookies(headers: Mapping[str, str]) -> dict[str, str]:
  pairs = (part.split("=", 1) for part in headers.get("Cookie", "").split(";"))
  return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}
