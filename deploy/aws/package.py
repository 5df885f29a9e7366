"""Pack the fold function for AWS Lambda: `python deploy/aws/package.py` makes build/function.zip.

Run it with the Python version of the template's runtime, on Linux with the template's processor:
NumPy and Shoal's kernels are native code. boto3 is part of the runtime and is left out.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE, ARCHIVE = ROOT / "build" / "function", ROOT / "build" / "function.zip"
LIMIT = 250 << 20  # bytes that Lambda allows, unpacked
UNUSED = ("__pycache__", "tests", "include")  # folders that no call reads
TRY = "from shoal.planes.handler import handler; assert handler({})['error'] == 'ConfigError'"


def main() -> None:
    """Install, try, and pack."""
    shutil.rmtree(CODE, ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(CODE), str(ROOT)],
        check=True,
    )
    for name in UNUSED:
        for folder in sorted(CODE.rglob(name), reverse=True):
            shutil.rmtree(folder, ignore_errors=True)
    size = sum(path.stat().st_size for path in CODE.rglob("*") if path.is_file())
    if size > LIMIT:
        sys.exit(f"{size} bytes unpacked, and Lambda allows {LIMIT}")
    script = f"import sys; sys.path.insert(0, {str(CODE)!r}); {TRY}"
    subprocess.run([sys.executable, "-I", "-B", "-c", script], check=True)
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(CODE.rglob("*")):
            archive.write(path, path.relative_to(CODE))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size >> 20} MiB, for the runtime {version}")


if __name__ == "__main__":
    main()
