"""The network: what a search would download, and what works without."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

from tune_swa.doctor.finding import Finding, note, ok
from tune_swa.hardware.torch_probe import TorchFacts
from tune_swa.text import first_line

SECONDS = 3.0
WORKS = "Digits, images of your own and weights: none need no network"


def network(facts: TorchFacts) -> Iterator[Finding]:
    """Whether weights and sets of images can be downloaded, or are here already."""
    if facts.weights_url is None or facts.images_url is None:
        yield note("network", "not looked at: torchvision, which knows the addresses, cannot be used")
        return
    host, error = urllib.parse.urlsplit(facts.weights_url).hostname, None
    if facts.weights_here:
        yield ok("network", f"the ImageNet weights are here already ({facts.weights_file})")
    else:
        error = reach(facts.weights_url)
        if error is None:
            yield ok("network", f"the ImageNet weights can be downloaded ({host})")
        else:
            yield note(
                "network",
                f"weights: imagenet does not work: {host} cannot be reached ({error}). {WORKS}",
                f"Download {facts.weights_url} elsewhere, and put it at {facts.weights_file}",
            )
    host = urllib.parse.urlsplit(facts.images_url).hostname
    error = reach(facts.images_url)
    if error is None:
        yield ok("network", f"sets of torchvision's can be downloaded ({host}, for one, answers)")
    else:
        yield note(
            "network",
            f"sets that torchvision downloads (dataset: cifar10 and others) do not work: {host}, for one, "
            f"cannot be reached ({error})",
            "Let torchvision download the set elsewhere, copy its folder, and give that with --data-dir",
        )


def reach(url: str, seconds: float = SECONDS) -> str | None:
    """Ask for the head of `url`, through the user's proxy if there is one; return what goes wrong."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        # 405: it is there, but has no use for this kind of question
        return None if error.code == 405 else f"HTTP {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = error.reason
        return first_line(reason) if isinstance(reason, BaseException) else str(reason)
    except (OSError, ValueError) as error:
        return first_line(error)
    return None
