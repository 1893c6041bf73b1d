"""Signatures by `ssh-keygen -Y`, of OpenSSH 8.1 or newer. There is no cryptography of our own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from crosstask_bundles.errors import BundleError

NAMESPACE = "crosstask-bundle"
"""What the signature is for: one made for something else does not count."""
TOOL = "ssh-keygen"


def sign(data: bytes, key: Path) -> bytes:
    """A signature of `data` by a private key of SSH's, or by the public part of one that the agent holds."""
    if not Path(key).is_file():
        raise BundleError(f"no key at {key}: name a private key such as ~/.ssh/id_ed25519")
    done = _run(["-Y", "sign", "-n", NAMESPACE, "-f", str(key)], data)
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise BundleError(f"{TOOL} did not sign with {key}: {_told(done)}")
    return done.stdout


def signer(data: bytes, signature: bytes, signers: Path) -> str:
    """Who signed `data`: a name of the file `signers` (`ssh-keygen`'s ALLOWED SIGNERS: `name ssh-ed25519 AAAA…` in each
    line). BundleError if the signature is none of theirs, or not one of these data.
    """
    if not Path(signers).is_file():
        raise BundleError(
            f"no file of allowed signers at {signers}: lines such as 'anna@example.org ssh-ed25519 AAAA…'"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "signature"
        file.write_bytes(signature)
        found = _run(["-Y", "find-principals", "-s", str(file), "-f", str(signers)])
        names = found.stdout.decode("utf-8", "replace").splitlines()
        if found.returncode or not names:
            raise BundleError(f"signed by a key that {signers} does not name")
        done = _run(["-Y", "verify", "-f", str(signers), "-I", names[0], "-n", NAMESPACE, "-s", str(file)], data)
    if done.returncode:
        raise BundleError(f"the signature is not one of {names[0]!r} for this bundle: {_told(done)}")
    return names[0]


def _run(arguments: list[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    if (tool := shutil.which(TOOL)) is None:
        raise BundleError(
            f"signatures are made and checked by {TOOL} of OpenSSH, which is not installed here: install it (Debian: "
            "apt install openssh-client), or leave out the signature"
        )
    return subprocess.run([tool, *arguments], input=data, capture_output=True, timeout=120, check=False)


def _told(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"it ended with {done.returncode}"
