"""The report has its contents, needs no other files, and is displayed correctly in a browser."""

from html.parser import HTMLParser
import itertools
import json
import pathlib
import re
import shutil

from browser import open_chromium
from faults.harness import write_images
import helpers
import pytest
from tiny import tiny_config

from alexnet_jax import config as config_lib
from alexnet_jax.errors import RunError, UserError
from alexnet_jax.evaluation.evaluate import evaluate
from alexnet_jax.interop.exporter import export_network
from alexnet_jax.report.page import report
from alexnet_jax.training.loop import train
from alexnet_jax.workdir import sessions

NAMES = ('report__images', 'report__neighbours', 'report__bits')
MARKUP = '"><script>alert(2)<b>'
LONG = 'class of images whose name is so long that no column of a table or of cards can hold it'


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """The workdir of a run with a report, and the result of `--mode=report`."""
  workdir, images = (
    tmp_path_factory.mktemp('run') / 'run',
    tmp_path_factory.mktemp('images') / 'all',
  )
  write_images(images)
  for split in ('train', 'val'):
    (images / split / 'class3').rename(images / split / MARKUP)
    (images / split / 'class1').rename(images / split / LONG)
    (images / split / 'class0' / '0.png').rename(images / split / 'class0' / '<b>.png')
  # This validation image, one of the three that the page shows, is a training image too.
  shutil.copy(images / 'train' / 'class0' / '1.png', images / 'val' / 'class0' / '1.png')
  few = {'model__layers': ('conv1', 'fc7', 'fc8')}
  numbers = dict(zip(NAMES, (3, 4, 16), strict=True))
  config = tiny_config(eval__views=10, eval__baseline=True, **numbers, **few)
  config.data.source = f'folder:{images}'
  config.recipe = 'original <script>alert(1)</script>'
  helpers.untrained_run(config, workdir)
  lines = [f'{{"step": {s}, "epoch": {s / 4}, "loss": {3 / s}}}' for s in range(1, 9)]
  lines.append('{"step": 8, "epoch": 2.0, "val/top1_error": 75.0, "val/loss": 1.4}')
  (workdir / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
  with sessions.recorded(workdir, 0):
    pass
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
  assert 'alert(1)' in tags.text and MARKUP in tags.text and '<b>.png' in tags.text
  assert [attributes for tag, attributes in tags.tags if tag == 'script'] == [{}]
  assert 'alert' not in html.rpartition('<script>')[2] and '<b>.png' not in html
  images = [attributes for tag, attributes in tags.tags if tag == 'img']
  # The page has two towers, three images twice, and three rows of an image and four neighbours.
  assert len(images) == 2 + 3 + 3 + 3 * 5
  assert all(image['alt'] and image['src'].startswith('data:image/') for image in images)
  ids = {f'#{attributes["id"]}' for _, attributes in tags.tags if 'id' in attributes}
  links = [attributes['href'] for tag, attributes in tags.tags if tag == 'a']
  assert len(links) == len(set(links)) >= 7 and set(links) == ids  # the contents list all sections
  for tag, attributes in tags.tags:
    assert attributes.get('src', 'data:').startswith('data:')
    assert tag == 'a' or attributes.get('href', 'data:').startswith('data:')
  assert 'url(' not in html and '@import' not in html
  text = ' '.join(tags.text.split())
  assert 'class2' in text and 'Euclidean' in text and '40.7' not in text
  assert 'used 1 view of each image; the errors above used 10' in text


def test_the_size_is_bounded(page):
  """A picture takes at most 40 kB of the page, and all the rest 80 kB, with few classes."""
  html = pathlib.Path(page[1]['output']).read_text()
  pictures = re.findall('src="data:image/[^"]*"', html)
  assert max(map(len, pictures)) < 40_000
  assert len(html) - sum(map(len, pictures)) < 80_000


def test_the_headings_are_in_order(page):
  """There is one h1, and no level is left out."""
  tags = Tags(pathlib.Path(page[1]['output']).read_text()).tags
  levels = [int(tag[1]) for tag, _ in tags if re.fullmatch('h[1-6]', tag)]
  assert levels.count(1) == 1 == levels[0]
  assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_numbers_are_those_of_evaluation(page, tmp_path):
  """They equal those in evaluation.json: errors, baselines, figures of each class and confusion matrix."""
  workdir, result = page
  output = tmp_path / 'evaluation.json'
  evaluate(config_lib.load_workdir(workdir), [workdir], output=str(output))
  found = json.loads(output.read_text())
  for key in ('top1_error', 'top5_error', 'views', 'examples'):
    assert result[key] == found[key]
  html = pathlib.Path(result['output']).read_text()
  text = ' '.join(Tags(html).text.split())
  assert f'{found["baseline_error"]:.1f} %' in text and f'{found["macro_f1"]:.1f} %' in text
  for row in found['classes']:
    values = ' '.join(
      '\u2013' if row[key] is None else f'{row[key]:.1f}' for key in ('accuracy', 'precision', 'f1')
    )
    assert f'{row["label"]} {row["images"]} {values}' in text
  assert all(int(share) <= 45 for share in re.findall(r'--share: (\d+)', html))
  cells = re.findall(r'<td class="o[a-z]+" style="--share[^>]*>(\d+)', html)
  assert list(map(int, cells)) == [count for row in found['confusion'] for count in row]


def test_the_errors_are_those_of_ten_views(page):
  """Evaluation uses ten views, and each image once. With few classes there is no top-5 error."""
  _, result = page
  assert result['views'] == 10 and result['examples'] == 16
  assert 0 <= result['top1_error'] <= 100 and result['top5_error'] is None
  assert len(result['specialisation']['colour']) == 2
  assert result['codes']['bits'] == 16 and result['codes']['numbers'] == 256
  assert 'top-5' not in pathlib.Path(result['output']).read_text()


def test_images_in_both_splits_are_named(page):
  """A validation image that is also a training image is counted and named."""
  _, result = page
  text = ' '.join(Tags(pathlib.Path(result['output']).read_text()).text.split())
  assert result['in_both_splits'] == 1
  assert '1 of the 16 validation images is also among the training images' in text
  assert 'val/class0/1.png = train/class0/1.png' in text
  assert text.count('identical to the validation image') == 1


def test_the_page_shows_the_settings(page):
  """It shows the facts of the training, the main settings, and the differences from the recipe."""
  html = pathlib.Path(page[1]['output']).read_text().replace('<wbr>', '')
  text = ' '.join(Tags(html).text.split())
  assert (
    'model.width 0.0625' in text and 'train.epochs 4.0' in text and 'optim.momentum 0.9' in text
  )
  assert 'What differs from the recipe paper' in text  # its recipe is unknown
  assert 'optim.layer_rates' not in text and 'conv1.features' not in text  # equal to `paper`
  assert "model.conv1.then ('norm', 'pool', 'act') ('act', 'norm', 'pool')" in text
  # An imported network has no errors.
  assert 'checkpoint best, step 0' in text and 'chosen' not in text
  assert 'duration 0 s' in text and 'processor core' in text and 'JAX' in text


@pytest.mark.long
def test_a_report_on_other_images_names_them(page, tmp_path):
  """A file does not say how its checkpoint was chosen, so neither does the report."""
  workdir, _ = page
  config, weights = config_lib.load_workdir(workdir), tmp_path / 'net.safetensors'
  export_network(config, str(workdir), 'safetensors', str(weights))
  (tmp_path / 'new').symlink_to(config.data.source.partition(':')[2])
  config.data.source = f'folder:{tmp_path / "new"}'
  text = Tags(pathlib.Path(report(config, str(weights))['output']).read_text()).text
  assert 'validation images of new are wrong' in ' '.join(text.split())
  assert 'best, step' not in text and 'was chosen by its error' not in text


@pytest.mark.long
def test_a_part_of_the_training_images_is_random_also_in_stored_order(page, tmp_path):
  """The first images of a folder belong to one class."""
  workdir, _ = page
  config = config_lib.load_workdir(workdir)
  config.data.shuffle, config.report.train_images, config.eval.baseline = 'stored', 8, False
  result = report(config, str(workdir), output=str(tmp_path / 'page.html'))
  html = pathlib.Path(result['output']).read_text()
  near = html.partition('id="neighbours"')[2].partition('</section>')[0]
  assert 'among 8 images' in near
  assert len(set(re.findall('title="train/([^/]*)/', near))) > 1


@pytest.mark.long
def test_the_page_names_another_split_views_and_weights_than_in_training(tmp_path, caplog):
  config = tiny_config(train__steps=1, optim__ema=0.9, eval__weights='ema')
  train(config, tmp_path)
  config = config_lib.load_workdir(tmp_path)
  config.data.holdout, config.eval.weights = 0.5, 'last'
  config.eval.views = config.eval.train_views = 9
  html = pathlib.Path(report(config, str(tmp_path))['output']).read_text()
  text = ' '.join(Tags(html).text.split())
  message = 'config.data.holdout=0.5, but the network was trained with 0.1: if synthetic'
  assert message in text and message in caplog.text and html.count('<div class="warn">') == 1
  assert 'used 1 view of each image; the errors above used 9.' in text
  assert 'are those of the moving average of the weights; the errors above are' in text
  config = config_lib.load_workdir(tmp_path)
  text = Tags(pathlib.Path(report(config, str(tmp_path))['output']).read_text()).text
  assert 'was trained with' not in text and 'during training' not in text


@pytest.mark.long
def test_only_the_weakest_of_many_classes_are_listed(tmp_path):
  """There is no confusion matrix of more than 12 classes."""
  many = {'data__synthetic__classes': 25, 'data__synthetic__validation': 25}
  config = tiny_config(model__layers=('conv1', 'fc6', 'fc8'), **many)
  helpers.untrained_run(config, tmp_path)
  html = pathlib.Path(report(config, str(tmp_path))['output']).read_text()
  assert 'class="matrix' not in html and 'Confusion matrix' not in html
  assert 'These are the 20 of 25 classes with the lowest F1.' in html
  table = html.partition('The weakest classes')[2].partition('</table>')[0]
  figures = [float(f1) for f1 in re.findall(r'<i style="width: ([\d.]+)%">', table)]
  assert len(figures) == 20 and figures == sorted(figures)


def test_non_finite_probabilities_are_an_error(page, tmp_path, monkeypatch):
  """A network with finite weights and non-finite outputs gets an error instead of a report."""
  monkeypatch.setitem(helpers.GAINS, 'fc8', 1e38)
  config = config_lib.load_workdir(page[0])
  helpers.untrained_run(config, tmp_path)
  with pytest.raises(RunError, match='not finite'):
    report(config, str(tmp_path))
  assert not (tmp_path / 'report' / 'index.html').exists()


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


def _luminance(colour: str) -> float:
  parts = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
  linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_colours_have_enough_contrast(page):
  """Text has a contrast of 4.5 and lines have one of 3 in both colour schemes (WCAG 2, level AA)."""
  html = pathlib.Path(page[1]['output']).read_text()
  schemes = [
    dict(re.findall('--([a-z-]+): (#[0-9a-f]{6})', block))
    for block in re.findall(r':root \{.*?\}', html, re.DOTALL)
  ]
  assert len(schemes) == 2
  for colours in schemes:
    light = {name: _luminance(colour) for name, colour in colours.items()}

    def contrast(one, other, light=light):
      low, high = sorted((light[one], light[other]))
      return (high + 0.05) / (low + 0.05)

    for ground in ('ground', 'card'):
      for name in ('ink', 'soft', 'right', 'wrong', 'link'):
        assert contrast(name, ground) >= 4.5, (name, ground)
    for name in ('first', 'second', 'third', 'accent', 'soft', 'bar'):
      assert contrast(name, 'ground') >= (2.5 if name == 'bar' else 3), name
    assert contrast('ink', 'warn') >= 4.5
    for tone in (
      'right',
      'wrong',
    ):  # the darkest cells of the confusion matrix are mixed from two colours
      channels = ([int(colours[name][k : k + 2], 16) for name in (tone, 'card')] for k in (1, 3, 5))
      mixed = ''.join(f'{round(0.45 * first + 0.55 * second):02x}' for first, second in channels)
      light['cell'] = _luminance(f'#{mixed}')
      assert contrast('ink', 'cell') >= 4.5, tone


@pytest.fixture(scope='module')
def browser():
  """A headless Chromium."""
  with open_chromium() as opened:
    yield opened


@pytest.mark.long
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
  tab.evaluate('document.querySelectorAll("details").forEach(d => d.open = true)')
  seen = tab.evaluate(
    '({wide: document.documentElement.scrollWidth, broken: [...document.images].filter('
    'i => !i.complete || !i.naturalWidth).length, ground: getComputedStyle(document.body).backgroundColor})'
  )
  context.close()
  assert problems == []
  assert seen['wide'] <= width and seen['broken'] == 0
  assert seen['ground'] == {'light': 'rgb(255, 255, 255)', 'dark': 'rgb(20, 23, 26)'}[scheme]


@pytest.mark.long
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
