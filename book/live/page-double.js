// The second part of the live page: a picture on its way from the sender to the network.
(() => {
  "use strict";

  const CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split(" ");
  const SIDE = 32;

  document.addEventListener("DOMContentLoaded", () => {
    const form = document.getElementById("live-double");
    const part = (name) => form.querySelector(`[data-part="${name}"]`);
    const pictures = LivePage.examples("pictures");
    const { shape } = pictures;
    LivePage.choices(part("pictures"), "picture", pictures, (label, n) => `test picture ${n}, ${CLASSES[label]}`);
    let own = null; // the reader's picture, Uint8Array of [3, 32, 32]
    let stop = () => {};

    // In the address both parts stand together, so their controls have names of their own.
    const settings = () => {
      const { depth, size, draw, ...others } = LivePage.settings(form);
      return { ...others, bits: Number(depth), eps: size, seed: draw };
    };
    const chosenPicture = ({ picture }) => (picture === "own" ? own : pictures.images[picture]);

    // --- What can be said before an attack. ------------------------------------------------------

    function reset() {
      stop();
      const chosen = settings();
      const { bits, noise, eps } = chosen;
      form.elements.halftone.disabled = bits === 8;
      form.elements.draw.disabled = noise === "after";
      const limit = noise === "after" ? Live.fileRadius(bits, chosen.rounding) : null;
      const most = Number(form.elements.size.max);
      const mark = part("radius");
      mark.hidden = limit === null || limit > most;
      mark.style.setProperty("--at", limit / most);
      part("limit").textContent =
        limit === null
          ? "Before the dithering no size is certain to be removed."
          : `Certain to be removed: up to ${limit} grey level${limit === 1 ? "" : "s"}.` +
            (eps <= limit ? " This is inside." : " This is beyond.");
      part("limit").dataset.inside = limit !== null && eps <= limit;
      for (const name of ["attacked", "received"]) {
        clear(part(name));
        part(`${name}-says`).textContent = "";
      }
      part("changed").textContent = part("got-through").textContent = "";
      const picture = chosenPicture(chosen);
      part("sent-says").textContent = "";
      if (!picture) {
        clear(part("sent"));
        return say("Choose a picture of your own, or drop one on this part.");
      }
      const sent = noise === "before" ? Live.toFloat(picture) : Live.send(picture, chosen, shape);
      LivePage.paint(part("sent"), sent, shape);
      part("sent-name").textContent = noise === "before" ? "The picture, not yet dithered" : "Sent";
      say("Ready.");
    }

    const clear = (canvas) => canvas.getContext("2d").clearRect(0, 0, SIDE, SIDE);

    function say(text) {
      part("status").textContent = text;
      delete part("status").dataset.broken;
    }

    // --- The attack, in a worker. ----------------------------------------------------------------

    async function attack() {
      stop();
      const chosen = settings();
      const picture = chosenPicture(chosen);
      if (!picture) return reset();
      say("Loading the network …");
      let cancelled = false;
      stop = () => (cancelled = true);
      try {
        const exported = await LivePage.load(chosen.network);
        if (cancelled) return;
        const label = chosen.picture === "own" ? undefined : pictures.labels[chosen.picture];
        say("The attack begins …");
        stop = Live.inWorker({ exported, shape, picture, label, settings: chosen }, receive, say);
      } catch (error) {
        say(error.message);
      }
    }

    function receive(stage) {
      if (stage.done) return finish(stage);
      LivePage.paint(part("attacked"), stage.x, shape);
      say(`Step ${stage.step} of ${stage.steps} …`);
    }

    function finish({ label, sent, attacked, received, changed, said }) {
      const answer = (shares) => {
        const best = Live.argmax(shares);
        return `${CLASSES[best]}, ${LivePage.percent(shares[best])}`;
      };
      for (const [name, x] of Object.entries({ sent, attacked, received })) {
        LivePage.paint(part(name), x, shape);
        part(`${name}-says`).textContent = answer(said[name]);
      }
      const count = (n) => `${n.toLocaleString("en")} of ${sent.length.toLocaleString("en")} values changed`;
      part("changed").textContent = count(changed.attacked);
      part("got-through").textContent = count(changed.received);
      const [clean, now] = [said.clean, said.received].map(Live.argmax);
      const name = CLASSES[label];
      if (clean !== label) say(`The network takes this ${name} for a ${CLASSES[clean]} without any attack.`);
      else if (now !== label) say(`Broken: the network says ${CLASSES[now]}, not ${name}.`);
      else if (!changed.received) say(`Nothing got through: the network receives what it would without an attack, and says ${name}.`);
      else say(`It stands: the network still says ${name}.`);
      part("status").dataset.broken = clean === label && now !== label;
    }

    // --- A picture of the reader's. --------------------------------------------------------------

    async function take(file) {
      try {
        const bitmap = await createImageBitmap(file);
        const side = Math.min(bitmap.width, bitmap.height);
        const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
        const context = canvas.getContext("2d");
        context.imageSmoothingQuality = "high";
        const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
        context.drawImage(bitmap, left, top, side, side, 0, 0, SIDE, SIDE);
        const { data } = context.getImageData(0, 0, SIDE, SIDE);
        own = new Uint8Array(3 * SIDE * SIDE);
        own.forEach((_, n) => (own[n] = data[4 * (n % SIDE ** 2) + Math.floor(n / SIDE ** 2)]));
        form.elements.picture.value = "own";
        LivePage.writeAddress();
        reset();
      } catch {
        say(`${file.name} is no picture that this browser can read.`);
      }
    }

    part("file").addEventListener("change", ({ target }) => target.files[0] && take(target.files[0]));
    form.addEventListener("dragover", (event) => event.preventDefault());
    form.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
    });
    part("attack").addEventListener("click", attack);
    form.addEventListener("input", ({ target }) => target.name && reset());
    form.addEventListener("settings", reset);
  });

  document.addEventListener("DOMContentLoaded", LivePage.start);
})();
