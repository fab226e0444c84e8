"""Install FFCV, whose C++ part must be built: Debian packages, Python packages, build. ``make ffcv`` runs it.

    python tools/install_ffcv.py        # into the environment of this Python; nothing is done twice

FFCV links against OpenCV's ``core`` and ``imgproc`` and against TurboJPEG, and finds them with pkg-config. Debian's
``opencv4.pc`` is only in ``libopencv-dev`` (about 200 packages). FFCV calls nothing but ``cv::resize``, so 14 small
packages and two files written here do, unless pkg-config knows OpenCV already.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEBIAN = ("g++", "pkg-config", "libopencv-imgproc-dev", "libturbojpeg0-dev")
# What FFCV imports, apart from torch and numpy. It declares five more that it never imports, among them an OpenCV
# that needs a display library; so it is installed without its dependencies.
PYTHON = ("numba", "opencv-python-headless", "pillow", "tqdm", "setuptools")
FFCV = "ffcv==1.0.2"
REASON = Path(sys.prefix, ".ffcv-reason")  # for the tests that are skipped then


class CannotInstall(Exception):
    """A step failed; the message is the reason that is shown."""


def main() -> int:
    """Install what is missing; returns 1, with one line that says why, where that cannot be done."""
    try:
        if not usable():
            install_debian_packages()
            install_python_packages()
        if not usable():
            raise CannotInstall("it is installed, but it cannot be imported: " + import_error())
    except CannotInstall as reason:
        print(f"FFCV is not installed: {reason}", file=sys.stderr)
        REASON.write_text(str(reason))
        return 1
    REASON.unlink(missing_ok=True)
    return 0


def usable() -> bool:
    """Whether a fresh interpreter can import it."""
    return importlib.util.find_spec("ffcv") is not None and not import_error()


def import_error() -> str:
    """The last line of what importing it says; "" if it can be imported."""
    tried = subprocess.run([sys.executable, "-c", "import ffcv"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else (tried.stderr.strip().splitlines() or ["it crashed"])[-1]


def install_debian_packages() -> None:
    """The compiler and the headers, where they are missing."""
    if not headers_are_here():
        install_with_apt(DEBIAN, "a C++ compiler and the headers of ")


def install_with_apt(packages: tuple[str, ...], what: str = "") -> None:
    """Install Debian packages, as root or with sudo that asks nothing.

    Args:
        packages: their names.
        what: goes before the names where the message says what is needed.

    Raises:
        CannotInstall: there is no apt-get, or no right to use it, or it fails.
    """
    apt = shutil.which("apt-get")
    if apt is None:
        raise CannotInstall(f"there is no apt-get; needed are {what}{', '.join(packages)}")
    rights = () if os.geteuid() == 0 else ("sudo", "-n")
    if rights and (shutil.which("sudo") is None or not succeeds("sudo", "-n", "true")):
        raise CannotInstall(f"no right to install Debian packages; as root: apt-get install {' '.join(packages)}")
    wanted = (*rights, apt, "-qq", "install", "-y", "--no-install-recommends", *packages)
    if not succeeds(*wanted):  # the lists of packages may be missing or old
        succeeds(*rights, apt, "-qq", "update")
        run("apt-get install", *wanted)


def headers_are_here() -> bool:
    """Whether a program with FFCV's includes can be linked; the only test that cannot be wrong."""
    if not (shutil.which("g++") and shutil.which("pkg-config")):
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(
            "#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n#include <turbojpeg.h>\n"
            "int main() { cv::Mat a(1, 1, CV_8UC3), b; cv::resize(a, b, cv::Size(2, 2));\n"
            "return !tjInitDecompress(); }\n"
        )
        libraries = ("-I/usr/include/opencv4", "-lopencv_imgproc", "-lopencv_core", "-lturbojpeg")
        return succeeds("g++", "-O0", str(source), "-o", str(Path(folder, "probe")), *libraries)


def install_python_packages() -> None:
    """FFCV's dependencies by the repository's pins, then FFCV without further ones."""
    pip = (sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--root-user-action=ignore")
    constraints = ROOT / "constraints.txt"
    run("pip install", *pip, *(("-c", str(constraints)) if constraints.exists() else ()), *PYTHON)
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ)
        if not succeeds("pkg-config", "--exists", "opencv4"):
            write_shim(Path(folder))
            environment["PKG_CONFIG_PATH"] = os.pathsep.join([folder, environment.get("PKG_CONFIG_PATH", "")])
        run("building ffcv", *pip, "--no-deps", FFCV, environment=environment)


def write_shim(folder: Path) -> None:
    """What ``libopencv-dev`` would give pkg-config and the compiler, for the two libraries that are used."""
    (folder / "opencv2").mkdir()
    (folder / "opencv2" / "opencv.hpp").write_text("#include <opencv2/core.hpp>\n#include <opencv2/imgproc.hpp>\n")
    (folder / "opencv4.pc").write_text(
        "Name: opencv4\nDescription: core and imgproc\nVersion: 4.6.0\n"
        f"Libs: -lopencv_imgproc -lopencv_core\nCflags: -I{folder} -I/usr/include/opencv4\n"
    )


def succeeds(*command: str) -> bool:
    """Whether a command ends well; what it says is thrown away."""
    return subprocess.run(command, capture_output=True, check=False, env=quiet()).returncode == 0


def run(what: str, *command: str, environment: dict[str, str] | None = None) -> None:
    """Run a command that must end well.

    Raises:
        CannotInstall: It does not; the message ends with the last lines it wrote.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**quiet(), **(environment or {})})
    if done.returncode:
        said = " | ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
        raise CannotInstall(f"{what} failed: {said}")


def quiet() -> dict[str, str]:
    """An environment in which apt asks nothing."""
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}


if __name__ == "__main__":
    sys.exit(main())
