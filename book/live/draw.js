// A box of 28 x 28 to draw a digit in: with a finger or a mouse, or with the arrow keys, where the
// space bar puts the pen down and up.
LivePage.drawing = (canvas, changed) => {
  "use strict";

  const SIDE = 28;
  const INK = [0, 0.35, 0.75, 1]; // what a pixel can hold, so that two bits tell it
  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const shades = new Uint8Array(SIDE * SIDE);
  const values = () => Float32Array.from(shades, (shade) => INK[shade]);
  const pen = { x: 13, y: 5, down: false };

  function dot(x, y) {
    for (let dy = -1; dy <= 1; dy++)
      for (let dx = -1; dx <= 1; dx++) {
        const [column, row] = [x + dx, y + dy];
        if (column < 0 || row < 0 || column >= SIDE || row >= SIDE) continue;
        const n = row * SIDE + column;
        shades[n] = Math.max(shades[n], dx && dy ? 1 : dx || dy ? 2 : 3);
      }
  }

  function show() {
    LivePage.paint(canvas, values(), [1, SIDE, SIDE]);
    if (document.activeElement !== canvas) return;
    const context = canvas.getContext("2d");
    context.fillStyle = pen.down ? "#ff9d2e" : "#6fb7ff";
    context.fillRect(pen.x, pen.y, 1, 1);
  }

  // From where the pen was to here, without gaps.
  function draw(x, y) {
    const steps = Math.max(Math.abs(x - pen.x), Math.abs(y - pen.y), 1);
    for (let n = 0; n <= steps; n++)
      dot(Math.round(pen.x + ((x - pen.x) * n) / steps), Math.round(pen.y + ((y - pen.y) * n) / steps));
    Object.assign(pen, { x, y });
    show();
    changed();
  }

  const at = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    const cell = (v, from, size) => Math.min(Math.max(Math.floor((SIDE * (v - from)) / size), 0), SIDE - 1);
    return [cell(clientX, box.left, box.width), cell(clientY, box.top, box.height)];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    [pen.x, pen.y] = at(event);
    draw(pen.x, pen.y);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) draw(...at(event));
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    if (!move) pen.down = !pen.down;
    const [dx, dy] = move ?? [0, 0];
    const [x, y] = [pen.x + dx, pen.y + dy].map((v) => Math.min(Math.max(v, 0), SIDE - 1));
    if (pen.down) draw(x, y);
    else Object.assign(pen, { x, y });
    show();
  });
  canvas.addEventListener("focus", show);
  canvas.addEventListener("blur", show);
  show();

  // Three pixels a letter, row by row; nothing where nothing is drawn.
  function text() {
    if (!shades.some(Boolean)) return "";
    let letters = "";
    for (let n = 0; n < shades.length; n += 3)
      letters += LETTERS[16 * shades[n] + 4 * (shades[n + 1] ?? 0) + (shades[n + 2] ?? 0)];
    return letters;
  }

  // What text() gave, and nothing else; true if that is what it was.
  function read(letters) {
    const before = shades.slice();
    const codes = [...letters].map((letter) => LETTERS.indexOf(letter));
    shades.forEach((_, n) => (shades[n] = (codes[Math.floor(n / 3)] ?? 0) >> (4 - 2 * (n % 3)) & 3));
    const valid = text() === letters;
    if (!valid) shades.set(before);
    show();
    return valid;
  }

  return {
    values,
    text,
    read,
    clear: () => {
      shades.fill(0);
      show();
      changed();
    },
  };
};
