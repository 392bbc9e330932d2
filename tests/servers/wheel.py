"""wheel.py FOLDER: a package of one module and the page of a package index (PEP 503, PEP 427)."""

import sys
import zipfile

FOLDER, NAME = sys.argv[1], "small-1.0-py3-none-any.whl"
FILES = {
    "small.py": "ANSWER = 42\n",
    "small-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
    "small-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: wheel.py\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
FILES["small-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*FILES, "small-1.0.dist-info/RECORD"])
with zipfile.ZipFile(f"{FOLDER}/{NAME}", "w") as wheel:
    for name, text in FILES.items():
        wheel.writestr(name, text)
with open(f"{FOLDER}/index.html", "w") as page:
    page.write(f'<a href="{NAME}">{NAME}</a>\n')
