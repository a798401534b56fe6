// Puts the shared vamp on the deck, in the place of the plain players.
(() => {
  "use strict";
  const element = document.getElementById("deck");
  const { vamp, files } = JSON.parse(document.getElementById("deck-data").textContent);
  if (!window.VampStudio || !VampStudio.deck) return;
  const players = [...element.children];
  // Absolute: a script may fetch from elsewhere than where the page is.
  const address = (name) => new URL(files + encodeURIComponent(name), location.href).href;
  VampStudio.deck.mount(element, { vamp, address, readOnly: true });
  for (const player of players) player.remove();
})();
