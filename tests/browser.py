"""Opens a headless Chromium for tests of pages, if the machine has one."""

from collections.abc import Iterator
import contextlib
import os
import shutil

import pytest

_NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_QUIET = ('background-networking', 'component-update', 'sync', 'gpu')


@contextlib.contextmanager
def open_chromium() -> Iterator:
  """Opens $CHROMIUM, an installed Chromium or that of Playwright; skips the test if there is none."""
  sync_api = pytest.importorskip(
    'playwright.sync_api', reason='pip install -r requirements-test.txt brings playwright'
  )
  with sync_api.sync_playwright() as driver:
    named = (os.environ.get('CHROMIUM'), *map(shutil.which, _NAMES))
    path = next(filter(None, named), driver.chromium.executable_path)
    if not os.path.exists(path):
      pytest.skip(
        'no Chromium here: `apt-get install chromium`, `python -m playwright install chromium`, or '
        'CHROMIUM=PATH'
      )
    args = ['--no-sandbox', *(f'--disable-{what}' for what in _QUIET)]
    browser = driver.chromium.launch(executable_path=path, args=args)
    yield browser
    browser.close()
