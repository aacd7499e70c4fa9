// Sends images to the server one after the other, and shows the answers. Names of classes and files are
// inserted as text, never as markup.
'use strict';

const MAX_TRIES = 5; // requests for an image while the server is busy
const MAX_HISTORY = 60; // images
const SIDE = 480; // largest side of the pictures that the page keeps, in pixels
const TINY = 100; // images with a smaller side are enlarged without smoothing

const at = (id) => document.getElementById(id);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u00a0%`;
const first = (label) => label.split(', ')[0]; // ImageNet names a class by all its synonyms
let about = null; // what the server says about the network
let entries = []; // the history, newest first: {name, truth, picture, tiny, answer, error}
let waiting = 0; // images of the batch that have no answer yet
let batch = 0; // its number; an image of an earlier batch is left out
let following = true; // whether the page shows each new answer, and not an entry of the history
let queue = Promise.resolve();

// Returns the first name of a class, if no other class begins with it.
function short(label) {
  const same = about ? about.classes.filter((name) => first(name) === first(label)) : [];
  return same.length === 1 ? first(label) : label;
}

function element(name, text, parent, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  if (parent) parent.append(made);
  return made;
}

// ---- The network ----

function describeLayers({layers, towers, width}) {
  const kinds = [['conv', 'convolutional'], ['local', 'locally connected'], ['fc', 'fully connected']];
  const counted = kinds.map(([prefix, kind]) => [layers.filter((name) => name.startsWith(prefix)).length, kind]);
  const text = counted.filter(([count]) => count).map(([count, kind]) => `${count} ${kind}`).join(' and ');
  const share = width < 1 && Number.isInteger(1 / width) ? `1/${1 / width}` : width;
  return `${text} layers, ${towers === 1 ? 'one tower' : `${towers} towers`}` +
    (width === 1 ? '' : `, ${share} of the usual width`);
}

function addFact(name, value, note) {
  const group = element('div', undefined, at('facts'));
  element('dt', name, group);
  element('dd', value, group, 'value');
  return element('dd', note, group, 'note');
}

function describe() {
  const {classes, validation} = about;
  at('question').textContent = classes.length <= 4
    ? `${classes.slice(0, -1).join(', ')} or ${classes.at(-1)}?`
    : `Which of ${classes.length.toLocaleString('en')} classes?`;
  document.title = `${at('question').textContent} – alexnet_jax`;

  const few = classes.length <= 10;
  const note = addFact('Classes', classes.length.toLocaleString('en'),
    few ? classes.join(', ') : `${classes.slice(0, 3).map(short).join(', ')}, …`);
  if (!few) {
    const all = element('details', undefined, note);
    element('summary', 'all classes', all);
    const list = element('ul', undefined, all);
    for (const name of classes) element('li', name, list);
  }
  if (validation) {
    const views = validation.views === 1 ? 'one view' : `${validation.views} views`;
    const which = validation.data === about.data ? 'not used for training' : `of ${validation.data}`;
    addFact('Validation error', percent(validation.top1_error / 100, validation.top1_error < 10 ? 2 : 1),
      `of ${validation.images.toLocaleString('en')} images ${which}, ${views} of each`);
  } else {
    element('code', '--mode=eval', addFact('Validation error', 'unknown', 'It is measured by '));
  }
  const images = about.training_images;
  addFact('Trained on', about.data, images ? `${images.toLocaleString('en')} images` : 'number of images unknown');
  addFact('Recipe', about.recipe, describeLayers(about));
  addFact('Parameters', about.parameters.toLocaleString('en'),
    `after training step ${about.checkpoint.toLocaleString('en')}; reads ${about.input_size} × ${about.input_size} pixels`);
  const {probability, margin} = about.unsure;
  at('rule').textContent = `It is called unsure if that share is less than ${percent(probability, 0)}, or less than ` +
    `${(100 * margin).toFixed(0)} percentage points ahead of the next.`;
}

function showTowers() {
  const many = about.towers > 1;
  at('layer-text').textContent = `The first layer searches the image for ${about.kernels * about.towers} patterns, ` +
    `its kernels${many ? `. They belong to ${about.towers} towers, which are columns of layers side by side` : ''}.`;
  for (let tower = 0; tower < about.towers; tower += 1) {
    const part = element('div', undefined, at('towers'));
    if (many) element('h3', `Tower ${tower + 1}`, part);
    const of = many ? ` of tower ${tower + 1}` : '';
    for (const [name, caption] of [['kernels', `${about.kernels} kernels`],
      ['maps', 'Where the image has these patterns: bright is strong']]) {
      const figure = element('figure', undefined, part, name);
      element('figcaption', caption, figure);
      const image = element('img', undefined, figure);
      image.alt = name === 'kernels' ? `The kernels${of}` : `The responses of the kernels${of} to the image`;
      if (name === 'kernels') image.src = `kernels/${tower}`;
      else figure.hidden = true;
    }
  }
}

function showExamples() {
  for (const {index, label} of about.examples) {
    const button = element('button', undefined, element('li', undefined, at('examples')));
    button.type = 'button';
    const image = element('img', undefined, button);
    image.alt = 'Example of';
    image.addEventListener('load', () => image.classList.toggle('tiny', image.naturalWidth < TINY));
    image.src = `examples/${index}`;
    element('span', short(label), button, 'name').title = label;
    button.addEventListener('click', async () => {
      try {
        const response = await fetch(image.src);
        add([new File([await response.blob()], `validation image ${index + 1}`)], label);
      } catch (error) {
        showError('The server does not answer. Is it still running?');
      }
    });
  }
  at('tries').hidden = about.examples.length === 0;
}

// ---- One answer ----

function showError(text) {
  at('guide').hidden = true;
  at('message').replaceChildren(element('p', text, null, 'wrong'));
}

function showVerdict({answer, truth}) {
  const [best] = answer.top;
  const verdict = element('p', undefined, null, 'verdict');
  element('strong', best.label, verdict);
  element('span', percent(best.probability), verdict);
  at('message').replaceChildren(verdict);
  if (answer.unsure) element('span', 'unsure', verdict, 'badge');
  if (answer.unsure && about) {
    const low = best.probability < about.unsure.probability;
    element('p', low ? `The network is unsure: no class has ${percent(about.unsure.probability, 0)} or more.`
      : `The network is unsure: “${answer.top[1].label}” is nearly as probable.`, at('message'), 'soft');
  }
  if (truth) {
    const right = truth === best.label;
    element('p', right ? `✓ Right: the image shows ${truth}.` : `✗ Wrong: the image shows ${truth}.`,
      at('message'), right ? 'right' : 'wrong');
  }
}

function showAnswer(answer) {
  for (const guess of answer ? answer.top : []) {
    const item = element('li', undefined, at('bars'));
    const words = element('div', undefined, item, 'words');
    element('span', guess.label, words);
    element('span', percent(guess.probability), words);
    const bar = element('progress', undefined, item);
    bar.max = 1;
    bar.value = guess.probability;
    bar.setAttribute('aria-label', guess.label);
  }
  for (const near of answer ? answer.neighbours : []) {
    const item = element('li', undefined, at('neighbours'));
    const image = element('img', undefined, item);
    image.addEventListener('load', () => image.classList.toggle('tiny', image.naturalWidth < TINY));
    image.src = `neighbours/${near.index}`;
    image.alt = '';
    if (near.label !== null) element('span', short(near.label), item, 'name').title = near.label;
    element('span', near.name, item, 'soft file').title = near.name;
    element('span', `distance ${near.distance.toFixed(1)}`, item, 'soft');
  }
  at('near').hidden = !answer || answer.neighbours.length === 0;
  for (const [tower, figure] of document.querySelectorAll('figure.maps').entries()) {
    figure.hidden = !answer;
    if (answer) figure.querySelector('img').src = answer.activations[tower];
  }
}

function show(entry) {
  at('bars').replaceChildren();
  at('neighbours').replaceChildren();
  const {picture} = entry || {};
  at('preview').hidden = !picture;
  if (picture) at('preview').src = picture;
  at('preview').classList.toggle('tiny', Boolean(entry && entry.tiny));
  at('preview').alt = entry ? entry.name : '';
  at('hint').textContent = entry ? entry.name : 'Drop images here, or paste them.';
  at('guide').hidden = Boolean(entry);
  if (!entry) at('message').replaceChildren();
  else if (entry.answer) showVerdict(entry);
  else if (entry.error) showError(entry.error);
  else at('message').replaceChildren(element('p', 'Classifying the image …', null, 'soft'));
  showAnswer(entry && entry.answer);
  for (const button of at('history').querySelectorAll('button')) button.removeAttribute('aria-current');
  if (entry && entry.button) entry.button.setAttribute('aria-current', 'true');
}

// ---- The history ----

function remember(entry) {
  const item = element('li');
  entry.button = element('button', undefined, item);
  entry.button.type = 'button';
  if (entry.picture) {
    const image = element('img', undefined, entry.button, entry.tiny ? 'tiny' : '');
    image.src = entry.picture;
    image.alt = entry.name;
  } else {
    element('span', '?', entry.button, 'blank');
  }
  if (entry.answer) {
    const [best] = entry.answer.top;
    element('span', short(best.label), entry.button, 'name').title = best.label;
    element('span', percent(best.probability), entry.button, 'soft');
    if (entry.answer.unsure) element('span', 'unsure', entry.button, 'badge');
  } else {
    element('span', 'no answer', entry.button, 'name wrong');
    element('span', entry.name, entry.button, 'soft file');
  }
  if (entry.truth && entry.answer) {
    const right = entry.truth === entry.answer.top[0].label;
    element('span', right ? '✓ right' : `✗ ${short(entry.truth)}`, entry.button, right ? 'right' : 'wrong');
  }
  entry.button.addEventListener('click', () => {
    following = waiting === 0;
    show(entry);
    at('answer').scrollIntoView({block: 'nearest'});
  });
  entries.unshift(entry);
  at('history').prepend(item);
  for (const old of entries.splice(MAX_HISTORY)) forget(old);
  at('past').hidden = false;
}

function forget(entry) {
  URL.revokeObjectURL(entry.picture);
  entry.button.parentElement.remove();
}

// ---- Images to classify ----

// Returns a small picture of an image file, turned as the network sees it, and whether it is tiny.
async function makePicture(file) {
  const imageOrientation = about && !about.exif_orientation ? 'none' : 'from-image';
  try {
    const bitmap = await createImageBitmap(file, {imageOrientation});
    const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = element('canvas');
    canvas.width = Math.max(1, Math.round(scale * bitmap.width));
    canvas.height = Math.max(1, Math.round(scale * bitmap.height));
    canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const tiny = bitmap.width < TINY;
    bitmap.close();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    return {picture: URL.createObjectURL(blob), tiny};
  } catch (error) { // the browser does not know the format, or it is no image
    return {picture: null, tiny: false};
  }
}

// Posts the image, again after a pause if the server is busy.
async function post(file) {
  for (let tries = 1; ; tries += 1) {
    const response = await fetch('predict?activations=1', {method: 'POST', body: file});
    if (response.status !== 503 || tries === MAX_TRIES) return response;
    const seconds = Number(response.headers.get('Retry-After')) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

// Returns {answer} or {error}.
async function ask(file) {
  if (about && file.size > about.max_bytes) {
    return {error: `The file is too large: at most ${about.max_bytes >> 20} MiB.`};
  }
  let content;
  try {
    content = new Blob([await file.arrayBuffer()], {type: file.type});
  } catch (error) { // a folder, or a file that has changed
    return {error: 'The file cannot be read. Choose image files, not folders.'};
  }
  try {
    const response = await post(content);
    const answer = await response.json().catch(() => ({}));
    if (response.ok && answer.top) return {answer};
    return {error: `${answer.error || `The server failed (status ${response.status})`}.`};
  } catch (error) {
    return {error: 'The server does not answer. Is it still running?'};
  }
}

async function classify(file, truth, own) {
  const entry = {name: file.name || 'image', truth, ...await makePicture(file)};
  if (own === batch && following) {
    show(entry);
    if (waiting > 1) element('p', `${waiting - 1} more to go`, at('message'), 'soft');
  }
  if (own === batch) Object.assign(entry, await ask(file));
  if (own !== batch) { // the history was cleared
    URL.revokeObjectURL(entry.picture);
    return;
  }
  waiting -= 1;
  remember(entry);
  if (!following) return;
  show(entry);
  at('answer').scrollIntoView({block: 'nearest'});
}

function add(files, truth) {
  const own = batch;
  if (waiting === 0) following = true;
  for (const file of files) {
    waiting += 1;
    queue = queue.then(() => own === batch && classify(file, truth, own))
      .catch(() => showError('The page failed. Reload it.'));
  }
}

for (const [button, input] of [['choose', 'file'], ['photograph', 'camera']]) {
  at(button).addEventListener('click', () => at(input).click());
  at(input).addEventListener('change', () => {
    add([...at(input).files]);
    at(input).value = ''; // so that the same file can be chosen again
  });
}
at('photograph').hidden = !navigator.maxTouchPoints; // phones and tablets have a camera
at('clear').addEventListener('click', () => {
  batch += 1;
  waiting = 0;
  entries.splice(0).forEach(forget);
  at('past').hidden = true;
  show(null);
  at('choose').focus();
});
document.addEventListener('paste', (event) => add([...event.clipboardData.files]));
for (const name of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at('drop').classList.toggle('over', name === 'dragover');
    if (name === 'drop') add([...event.dataTransfer.files]);
  });
}

fetch('about').then((response) => response.json()).then((answer) => {
  about = answer;
  describe();
  showTowers();
  showExamples();
}).catch(() => showError('The server does not answer. Is it still running?'));
