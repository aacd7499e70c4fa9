// Sends a dropped, pasted or chosen image to the server and shows the answer. Names of classes and files
// are inserted as text, never as markup.
'use strict';

const at = (id) => document.getElementById(id);
let limits = null;
let latest = 0; // number of the most recent image; answers to earlier images are not shown
const MAX_TRIES = 5; // requests for an image while the server is busy

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function setMessage(text, wrong) {
  at('message').textContent = text;
  at('message').classList.toggle('wrong', Boolean(wrong));
}

function show(answer) {
  setMessage('');
  for (const guess of answer.top) {
    const item = element('li', undefined, at('bars'));
    const words = element('div', undefined, item);
    words.className = 'words';
    element('span', guess.label, words);
    element('span', `${(100 * guess.probability).toFixed(1)} %`, words);
    const bar = element('progress', undefined, item);
    bar.max = 1;
    bar.value = guess.probability;
    bar.setAttribute('aria-label', guess.label);
  }
  for (const near of answer.neighbours) {
    const item = element('li', undefined, at('neighbours'));
    const image = element('img', undefined, item);
    image.src = `neighbours/${near.index}`;
    image.alt = near.name;
    element('span', `${near.name} (${near.distance.toFixed(1)})`, item);
  }
  at('near').hidden = answer.neighbours.length === 0;
}

// Posts the image, again after a pause if the server is busy.
async function post(file) {
  for (let tries = 1; ; tries += 1) {
    const response = await fetch('predict', {method: 'POST', body: file});
    if (response.status !== 503 || tries === MAX_TRIES) return response;
    const seconds = Number(response.headers.get('Retry-After')) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

async function ask(file) {
  if (!file) return;
  const mine = ++latest;
  at('bars').replaceChildren();
  at('neighbours').replaceChildren();
  at('near').hidden = true;
  URL.revokeObjectURL(at('preview').src);
  at('preview').src = URL.createObjectURL(file);
  at('preview').alt = file.name;
  at('preview').hidden = false;
  at('hint').hidden = true;
  if (limits && file.size > limits.max_bytes) {
    setMessage(`The file is too large: at most ${limits.max_bytes >> 20} MiB.`, true);
    return;
  }
  setMessage('Classifying the image ...');
  try {
    const response = await post(file);
    const answer = await response.json();
    if (mine !== latest) return;
    if (response.ok) show(answer);
    else setMessage(answer.error, true);
  } catch (error) {
    if (mine === latest) setMessage('The server does not answer. Is it still running?', true);
  }
}

at('file').addEventListener('change', (event) => ask(event.target.files[0]));
at('preview').addEventListener('error', () => {
  at('preview').hidden = true;
  at('hint').hidden = false;
});
document.addEventListener('paste', (event) => ask(event.clipboardData.files[0]));
for (const name of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at('drop').classList.toggle('over', name === 'dragover');
    if (name === 'drop') ask(event.dataTransfer.files[0]);
  });
}

fetch('about').then((response) => response.json()).then((about) => {
  limits = about;
  // The preview shows a photograph as the network sees it.
  at('preview').style.imageOrientation = about.exif_orientation ? 'from-image' : 'none';
  at('about').textContent = `recipe ${about.recipe}, checkpoint of step ${about.checkpoint}, ` +
    `${about.classes} classes, ${about.views} view${about.views === 1 ? '' : 's'} of each image`;
});
