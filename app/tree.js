const buttons = () => [...element.querySelectorAll(".lm-tile")];

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-codes]");
  if (!button) return;
  byKeyboard = event.detail === 0;
  trigger("click", { codes: button.dataset.codes });
});

// What was opened by keyboard is gone with the old level: the focus goes on in the path above the new one.
let byKeyboard = false;
new MutationObserver(() => {
  const here = element.querySelector("[aria-current]");
  if (!byKeyboard || !here) return;
  byKeyboard = false;
  here.focus();
}).observe(element, { childList: true, subtree: true });

// On the map one tile is in the tab order; arrow keys go to the nearest one in their direction.
element.addEventListener("keydown", (event) => {
  const tile = event.target.closest(".lm-tile");
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!tile || !way) return;
  event.preventDefault();
  const centre = (node) => {
    const box = node.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const [x, y] = centre(tile);
  let best = null, least = Infinity;
  for (const other of buttons()) {
    const [dx, dy] = [centre(other)[0] - x, centre(other)[1] - y];
    const along = dx * way[0] + dy * way[1];
    const distance = along + 2 * Math.abs(dx * way[1] + dy * way[0]);
    if (other !== tile && along > 1 && distance < least) [best, least] = [other, distance];
  }
  if (best) {
    tile.tabIndex = -1;
    best.tabIndex = 0;
    best.focus();
  }
});
