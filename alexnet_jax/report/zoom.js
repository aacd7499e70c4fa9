// Enlarges a picture on a click or with the keyboard. The page works without this script.
const dialog = document.createElement('dialog');
dialog.className = 'zoomed';
dialog.innerHTML = '<figure></figure><form method="dialog"><button>Close</button></form>';
dialog.addEventListener('click', () => dialog.close());
document.body.append(dialog);

for (const picture of document.querySelectorAll('main img')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'zoom';
  button.title = 'Enlarge';
  picture.replaceWith(button);
  button.append(picture);
  button.addEventListener('click', () => {
    const large = picture.cloneNode();
    large.style.imageRendering = getComputedStyle(picture).imageRendering;
    const caption = document.createElement('figcaption');
    caption.textContent = picture.alt;
    dialog.querySelector('figure').replaceChildren(large, caption);
    dialog.showModal();
  });
}
