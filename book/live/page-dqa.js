// The first part of the live page: an attack on a digit, step by step.
(() => {
  "use strict";

  const QUERIES = 5000;
  const STEPS_ACROSS = 30; // the paper's 0.3 in steps of 0.01
  const NAMES = { relu: "ReLU", fixed: "fixed", dynamic: "dynamic" };

  document.addEventListener("DOMContentLoaded", () => {
    const form = document.getElementById("live-dqa");
    const part = (name) => form.querySelector(`[data-part="${name}"]`);
    const digits = LivePage.examples("digits");
    const { shape } = digits;
    LivePage.choices(part("digits"), "digit", digits, (label, n) => `test digit ${n}, a ${label}`);
    const drawing = LivePage.drawing(part("drawing"), () => {
      form.elements.ink.value = drawing.text();
      reset();
    });
    LivePage.readers.ink = drawing.read;
    // At the end of a stroke: browsers allow an address to change a few times a second.
    for (const ends of ["pointerup", "pointercancel", "keyup"])
      part("drawing").addEventListener(ends, LivePage.writeAddress);

    let walk = null; // of the attack at hand: {kind, steps, label, network, settings, trace, done}
    let turn = 0; // whoever began an older one stops

    const settings = () => LivePage.settings(form);
    const image = ({ digit }) =>
      digit === "drawn" ? drawing.values() : Live.toFloat(digits.images[digit]);
    const networkName = ({ activation, bits }) =>
      activation === "relu" ? "relu" : `${activation}-${bits}bit`;

    // --- From the settings to the digit as the network sees it, before any attack. ---------------

    async function reset() {
      const mine = ++turn;
      walk = null;
      const chosen = settings();
      const quantized = chosen.activation !== "relu";
      form.elements.bits.disabled = form.elements.rule.disabled = !quantized;
      form.elements.temperature.disabled = !quantized || chosen.rule !== "sigmoid";
      part("box").hidden = chosen.digit !== "drawn";
      LivePage.paint(part("clean"), image(chosen), shape);
      say("Loading the network …");
      try {
        await LivePage.load(networkName(chosen));
      } catch (error) {
        if (mine === turn) say(error.message);
        return;
      }
      if (mine !== turn) return;
      const network = new Live.Network(Live.networks[networkName(chosen)], shape);
      network.setRule(chosen.rule, chosen.temperature);
      const x = image(chosen);
      const logits = network.logits(x);
      const says = Live.argmax(logits);
      const label = chosen.digit === "drawn" ? says : digits.labels[chosen.digit];
      const gradient = network.gradient(logits, label);
      walk = { network, x, label, settings: chosen, trace: [], kind: "none", done: false };
      keep({ x, logits, gradient }, "without an attack", 0);
      look(0);
      if (chosen.digit === "drawn" && !x.some((v) => v)) say("Draw a digit in the box.");
      else if (says === label) say(`Without an attack the network says ${label}. Attack it.`);
      else say(`The network takes this ${label} for a ${says} without any attack; pick another.`);
    }

    // --- The attacks. ----------------------------------------------------------------------------

    function begin(kind) {
      const { network, x, label, settings: chosen, trace } = walk;
      const random = Live.random(chosen.seed);
      trace.length = 1;
      walk.kind = kind;
      walk.done = Live.argmax(trace[0].logits) !== label;
      const { eps, steps } = chosen;
      walk.steps =
        kind === "square"
          ? Live.square(network, x, label, { eps, queries: QUERIES, random })
          : Live.pgd(network, x, label, { eps, step: eps / STEPS_ACROSS, steps, random });
      walk.taken = 0;
    }

    // One step of the walk; false at its end.
    function advance() {
      const { value, done } = walk.steps.next();
      if (done) {
        walk.done = true;
        return false;
      }
      const last = walk.trace.at(-1);
      if (walk.kind === "pgd")
        keep(value, walk.taken ? `step ${walk.taken}` : "random start", walk.taken);
      else if (value.x !== last.x) keep(value, `query ${walk.taken + 1}`, walk.taken + 1);
      walk.taken++;
      return true;
    }

    function keep({ x, logits, gradient }, name, n) {
      const loss = Live.crossEntropy(logits, walk.label);
      const zero = gradient ? Live.zeroShare(gradient) : null;
      walk.trace.push({ x, logits, loss, zero, name, n });
    }

    const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

    async function attack(kind) {
      if (!walk) return;
      const mine = ++turn;
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      begin(kind);
      say(kind === "square" ? "Square asks the network …" : "The attack walks …");
      while (!walk.done) {
        const until = performance.now() + (kind === "square" ? 20 : 0);
        do advance();
        while (!walk.done && performance.now() < until);
        look(walk.trace.length - 1);
        await pause(kind === "square" || still ? 0 : 60);
        if (mine !== turn) return;
      }
      finish();
    }

    function oneStep() {
      if (!walk) return;
      turn++;
      if (walk.kind !== "pgd" || walk.done) begin("pgd");
      if (!walk.done && advance()) {
        look(walk.trace.length - 1);
        say(walk.trace.at(-1).name);
        const broken = Live.argmax(walk.trace.at(-1).logits) !== walk.label;
        if (broken || walk.taken > walk.settings.steps) walk.done = true;
      }
      if (walk.done) finish();
    }

    function finish() {
      const { trace, label, kind, settings: chosen } = walk;
      const last = trace.at(-1);
      const says = Live.argmax(last.logits);
      const name = `${NAMES[chosen.activation]}${chosen.activation === "relu" ? "" : `, ${chosen.bits} bit`}`;
      if (trace.length === 1) say(`The network takes this ${label} for a ${says} without any attack.`);
      else if (says !== label)
        say(`Broken by ${last.name} (${name}): the network says ${says}, not ${label}.`);
      else if (kind === "square") say(`It stands: after ${QUERIES} queries the network still says ${label}.`);
      else if (last.zero === 1) say(`It stands: every gradient is zero, so the image did not move.`);
      else say(`It stands: after ${chosen.steps} steps the network still says ${label}.`);
      part("status").dataset.broken = says !== label;
    }

    // --- What is shown. --------------------------------------------------------------------------

    function say(text) {
      part("status").textContent = text;
      delete part("status").dataset.broken;
    }

    function look(index) {
      const { trace, x, label, settings: chosen, kind } = walk;
      const now = trace[index];
      const says = Live.argmax(now.logits);
      LivePage.paint(part("clean"), x, shape);
      const change = now.x.map((v, n) => 0.5 + ((v - x[n]) * 255) / Math.max(2 * chosen.eps, 1));
      LivePage.paint(part("change"), change, shape);
      LivePage.paint(part("attacked"), now.x, shape);
      part("moment").max = trace.length - 1;
      part("moment").value = index;
      part("moment").setAttribute("aria-valuetext", now.name);
      part("name").textContent = now.name;
      part("answer").textContent = says === label ? `${says}` : `${says}, not ${label}`;
      part("answer").dataset.broken = says !== label;
      part("loss").textContent = now.loss.toPrecision(3);
      part("zero").textContent = now.zero === null ? "none asked for" : LivePage.percent(now.zero);
      const shares = Live.softmax(now.logits);
      [...part("answers").children].forEach((bar, n) => {
        bar.style.setProperty("--share", shares[n]);
        bar.dataset.kind = n === label ? "right" : n === says ? "wrong" : "";
      });
      part("answers").setAttribute(
        "aria-label",
        `The network's answer: ${says}, with ${LivePage.percent(shares[says])}`,
      );
      const walked = trace.slice(1, index + 1);
      const length = kind === "square" ? Math.max(now.n, 10) : chosen.steps;
      const losses = walked.map((t) => [t.n, t.loss]);
      LivePage.chart(part("loss-chart"), losses, length, Math.max(3, ...losses.map((l) => l[1])));
      const zeros = walked.filter((t) => t.zero !== null).map((t) => [t.n, t.zero]);
      LivePage.chart(part("zero-chart"), zeros, length, 1);
    }

    part("attack").addEventListener("click", () => attack("pgd"));
    part("step").addEventListener("click", oneStep);
    part("square").addEventListener("click", () => attack("square"));
    part("again").addEventListener("click", reset);
    part("clear").addEventListener("click", () => {
      drawing.clear();
      LivePage.writeAddress();
    });
    part("moment").addEventListener("input", ({ target }) => {
      if (!walk) return;
      turn++;
      look(Number(target.value));
    });
    form.addEventListener("input", ({ target }) => target.name && reset());
    form.addEventListener("settings", reset);
  });
})();
