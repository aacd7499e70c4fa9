"""Opens a headless Chromium for the tests of pages, if one is installed."""

from collections.abc import Iterator
import contextlib
import os
import shutil

import pytest

_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_DISABLED = ('background-networking', 'component-update', 'sync', 'gpu')


@contextlib.contextmanager
def open_chromium() -> Iterator:
  """Opens $CHROMIUM, an installed Chromium or the Chromium of Playwright; skips the test if there is none."""
  sync_api = pytest.importorskip(
    'playwright.sync_api', reason='playwright is missing: pip install -r requirements-test.txt'
  )
  with sync_api.sync_playwright() as driver:
    named = (os.environ.get('CHROMIUM'), *map(shutil.which, _NAMES))
    path = next(filter(None, named), driver.chromium.executable_path)
    if not os.path.exists(path):
      pytest.skip(
        'there is no Chromium: run `apt-get install chromium` or `python -m playwright install chromium`, '
        'or set CHROMIUM=PATH'
      )
    args = ['--no-sandbox', *(f'--disable-{feature}' for feature in _DISABLED)]
    browser = driver.chromium.launch(executable_path=path, args=args)
    yield browser
    browser.close()
