"""Takes the picture of a sweep's page for the documents, in Chromium.

python -m experiments.sweep --output_dir outputs/gas_like
python docs/page_picture.py outputs/gas_like/report.html
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "figures" / "page.png"

# The answer, the controls and the charts, at a size that is read in a column of text.
_SIZE = 1280, 1000
_COLOURS = 64


def take(page: Path, target: Path, visit: Callable[..., Any]) -> None:
    """Writes the top of a page as a PNG file of few colours.

    Args:
        page: A sweep's page.
        target: The file to write.
        visit: Opens a file in a browser without a network, see `tests.browser.visit`.
    """
    with visit(page, size=_SIZE) as opened:
        opened.page.wait_for_selector(".chart svg .mark-line path", state="attached")
        data = opened.page.screenshot()
    with Image.open(io.BytesIO(data)) as drawn:
        colours = drawn.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    colours.save(target, optimize=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from tests import browser

    take(Path(sys.argv[1]), TARGET, browser.visit)
    browser.close()
