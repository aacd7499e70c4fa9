"""The report has its contents, needs no other files, and is displayed correctly in a browser."""

from html.parser import HTMLParser
import pathlib

from browser import open_chromium
from faults.harness import write_images
import helpers
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.report.page import report

NAMES = ('report__images', 'report__neighbours', 'report__bits')


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """The workdir of a run with a report, and the result of `--mode=report`."""
  workdir, images = (
    tmp_path_factory.mktemp('run') / 'run',
    tmp_path_factory.mktemp('images') / 'all',
  )
  write_images(images)
  for split in ('train', 'val'):
    (images / split / 'class3').rename(images / split / '"><script>alert(2)<b>')
  config = tiny_config(eval__views=10, **dict(zip(NAMES, (3, 4, 16), strict=True)))
  config.data.source = f'folder:{images}'
  config.recipe = 'original <script>alert(1)</script>'
  helpers.untrained_run(config, workdir)
  lines = [f'{{"step": {s}, "epoch": {s / 4}, "loss": {3 / s}}}' for s in range(1, 9)]
  (workdir / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
  return workdir, report(config_lib.load_workdir(workdir), str(workdir))


class Tags(HTMLParser):
  """Collects all tags of a page with their attributes, and its text."""

  def __init__(self, html):
    super().__init__()
    self.tags, self.text = [], ''
    self.feed(html)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_data(self, data):
    self.text += f' {data}'


def test_the_page_needs_no_other_files(page):
  """Every image is embedded and described, nothing is fetched, and markup in names is shown as text."""
  workdir, result = page
  html = pathlib.Path(result['output']).read_text()
  assert result['output'] == str(workdir / 'report' / 'index.html')
  assert result['bytes'] == len(html.encode())
  tags = Tags(html)
  assert 'alert(1)' in tags.text and '"><script>alert(2)<b>' in tags.text
  assert [attributes for tag, attributes in tags.tags if tag == 'script'] == [{}]
  assert 'b' not in {tag for tag, _ in tags.tags}
  assert 'alert' not in html.rpartition('<script>')[2]
  images = [attributes for tag, attributes in tags.tags if tag == 'img']
  # The page has the loss curve, two towers, three images twice, and three rows of an image and four
  # neighbours.
  assert len(images) == 1 + 2 + 3 + 3 + 3 * 5
  assert all(image['alt'] and image['src'].startswith('data:image/') for image in images)
  for _, attributes in tags.tags:
    for name in ('src', 'href'):
      assert attributes.get(name, 'data:').startswith('data:')
  assert 'class2' in tags.text and 'Euclidean' in tags.text
  assert 'used 1 view of each image; the errors above used 10' in ' '.join(tags.text.split())
  assert 'reports no error on these images' in tags.text and '40.7' not in tags.text


def test_the_errors_are_those_of_evaluation(page):
  """Evaluation uses ten views, and each image once."""
  _, result = page
  assert result['views'] == 10 and result['examples'] == 16
  assert 0 <= result['top1_error'] <= 100 and result['top5_error'] is None
  assert len(result['specialisation']['colour']) == 2
  assert result['codes']['bits'] == 16 and result['codes']['numbers'] == 256


def test_the_page_shows_the_settings(page):
  """It shows the main settings, the differences from the recipe, and the checkpoint."""
  html = pathlib.Path(page[1]['output']).read_text().replace('<wbr>', '')
  text = ' '.join(Tags(html).text.split())
  assert (
    'model.width 0.0625' in text and 'train.epochs 4.0' in text and 'optim.momentum 0.9' in text
  )
  assert 'Differences from recipe paper' in text  # its recipe is unknown
  assert 'optim.layer_rates' not in text and 'conv1.features' not in text  # equal to `paper`
  assert "model.conv5.then ('pool', 'act') ('act', 'pool')" in text
  # An imported network has no errors.
  assert 'checkpoint best, step 0' in text and 'chosen' not in text


def test_non_finite_probabilities_are_an_error(page, tmp_path, monkeypatch):
  """A network with finite weights and non-finite outputs gets an error instead of a report."""
  monkeypatch.setitem(helpers.GAINS, 'fc8', 1e38)
  config = config_lib.load_workdir(page[0])
  helpers.untrained_run(config, tmp_path)
  with pytest.raises(RunError, match='not finite'):
    report(config, str(tmp_path))
  assert not (tmp_path / 'report').exists()


def test_invalid_input_is_refused(page, tmp_path):
  """The message names the problem and the remedy."""
  workdir, _ = page
  with pytest.raises(UserError, match='no checkpoints'):
    report(tiny_config(), str(tmp_path))
  other = config_lib.load_workdir(workdir)
  other.data.source, images = 'synthetic', other.data.source
  with pytest.raises(UserError, match=r'other classes.*class3.*--config\.data\.source'):
    report(other, str(workdir))
  other.data.source, other.data.holdout = f'{images}/train', 0.0
  with pytest.raises(UserError, match='no validation images'):
    report(other, str(workdir))
  other.report.neighbours = 0
  with pytest.raises(UserError, match='must be a whole number of at least 1'):
    report(other, str(workdir))


@pytest.fixture(scope='module')
def browser():
  """A headless Chromium."""
  with open_chromium() as opened:
    yield opened


@pytest.mark.parametrize(
  ('width', 'scheme', 'scripts'),
  [(390, 'light', True), (390, 'dark', False), (1280, 'light', False), (1280, 'dark', True)],
)
def test_the_page_is_displayed_in_a_browser(page, browser, width, scheme, scripts):
  """There are no errors and no horizontal scroll bar, all pictures load, and both colour schemes work."""
  context = browser.new_context(
    viewport={'width': width, 'height': 800},
    color_scheme=scheme,
    offline=True,
    java_script_enabled=scripts,
  )
  tab, problems = context.new_page(), []
  tab.on('console', lambda message: problems.append(message.text))
  tab.on('pageerror', lambda error: problems.append(str(error)))
  tab.goto(pathlib.Path(page[1]['output']).as_uri())
  seen = tab.evaluate(
    '({wide: document.documentElement.scrollWidth, broken: [...document.images].filter('
    'i => !i.complete || !i.naturalWidth).length, ground: getComputedStyle(document.body).backgroundColor})'
  )
  context.close()
  assert problems == []
  assert seen['wide'] <= width and seen['broken'] == 0
  assert seen['ground'] == {'light': 'rgb(255, 255, 255)', 'dark': 'rgb(20, 23, 26)'}[scheme]


def test_pictures_can_be_enlarged(page, browser):
  """A click or a key enlarges a picture, and closing it restores the focus."""
  tab = browser.new_page(viewport={'width': 390, 'height': 800}, offline=True)
  tab.goto(pathlib.Path(page[1]['output']).as_uri())
  assert tab.locator('main img').count() == tab.locator('main button.zoom img').count() > 0
  large, card = tab.locator('dialog img'), tab.locator('.card button').first
  card.click()
  assert large.get_attribute('alt') == card.locator('img').get_attribute('alt') != ''
  assert large.bounding_box()['width'] > 1.5 * card.bounding_box()['width']
  assert tab.evaluate('document.documentElement.scrollWidth') <= 390
  tab.keyboard.press('Escape')
  assert not large.is_visible()
  tab.keyboard.press('Enter')  # works because the focus was restored
  assert large.is_visible()
  large.click()
  assert not large.is_visible()
  tab.close()
