"""Licences and known weaknesses of what lmcompress installs, in `make lint`.

Licences are read from the installed packages, and need no network. Weaknesses are asked of PyPI by pip-audit; what it
could not ask about (offline, or a mirror without that service) is counted, and is no failure. Exit status 1 for a
known weakness, and for a copyleft licence of a package that running lmcompress needs.
"""

import json
import re
import subprocess
import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COPYLEFT = re.compile(r"\bA?GPL|Affero|GNU General Public")
CHOICE = re.compile(
    r"\b(MIT|BSD|Apache|Public Domain|PSF)", re.IGNORECASE
)  # of several licences one may be taken


def needed(extra: str) -> set[str]:
    """The installed packages that ``lmcompress[extra]`` asks for, and those that they ask for."""
    found, waiting = set(), [("lmcompress", extra)]
    while waiting:
        name, chosen = waiting.pop()
        for text in metadata.requires(name) or ():
            one = Requirement(text)
            inner = canonicalize_name(one.name)
            if inner in found or (one.marker and not one.marker.evaluate({"extra": chosen})):
                continue
            try:
                metadata.distribution(inner)
            except metadata.PackageNotFoundError:
                continue
            found.add(inner)
            waiting += [(inner, one_extra) for one_extra in (*one.extras, "")]
    return found


def licence(name: str) -> str:
    """What the package says of itself, in a line; empty if nothing."""
    about = metadata.metadata(name)
    classes = [
        text.rpartition(" :: ")[2] for text in about.get_all("Classifier", ()) if text.startswith("License")
    ]
    said = about.get("License-Expression") or "; ".join(classes) or about.get("License") or ""
    return said.strip().partition("\n")[0]


def licences() -> bool:
    """Print what needs a look; whether a copyleft licence is among what runs."""
    found = {name: licence(name) for name in sorted(needed("run"))}
    unknown = [name for name, said in found.items() if not said]
    bad = {name: said for name, said in found.items() if COPYLEFT.search(said) and not CHOICE.search(said)}
    print(
        f"licences: {len(found)} packages run, {len(bad)} copyleft, {len(unknown)} say none: {', '.join(unknown)}"
    )
    for name, said in bad.items():
        print(f"  {name}: {said}")
    return bool(bad)


def weaknesses() -> bool:
    """Print what is known of; whether there is any."""
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--skip-editable",
        "--progress-spinner",
        "off",
        "--format",
        "json",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("weaknesses: not asked, PyPI gave no answer")
        return False
    asked = [one for one in packages if "vulns" in one]
    print(f"weaknesses: {len(asked)} packages asked about, {len(packages) - len(asked)} without an answer")
    for one in asked:
        for known in one["vulns"]:
            print(
                f"  {one['name']} {one['version']}: {known['id']}, mended in {known['fix_versions'] or 'no version'}"
            )
    return any(one["vulns"] for one in asked)


if __name__ == "__main__":
    sys.exit(any([licences(), weaknesses()]))
