// Double quantization from the sender to the network, with an attacker before or after the dithering.
Live.define((Live) => {
  "use strict";

  const STEPS = 20;
  // The paper's 2 grey levels; more where twenty steps of 2 would not reach the edge of the ball.
  Live.stepFor = (eps) => Math.max(2, eps / STEPS);

  // settings: {bits, halftone, noise: "before" or "after", rounding, eps, seed}. Yields, after each
  // step, {x} of the attack, and at the end, with `done`, what was sent, attacked and received.
  // After: the paper's attack, on the network alone. Before: one that knows all that follows.
  Live.doubleQuantization = function* (network, picture, label, settings) {
    const { bits, halftone, noise, rounding, eps, seed } = settings;
    const filter = (x) => Live.linearQuantize(x, bits, rounding);
    const before = noise === "before";
    const dithers = before && halftone !== "none" && bits < 8;
    const deliver = (x) =>
      filter(dithers ? Live.send(Live.toBytes(x), settings, network.shape) : x);
    const sent = before ? picture : Live.toBytes(Live.send(picture, settings, network.shape));
    const start = Live.toFloat(sent);
    const clean = network.logits(deliver(start));
    const options = { eps, step: Live.stepFor(eps), steps: STEPS };
    if (before) Object.assign(options, { filter: deliver, random: Live.random(seed) });

    let attacked = start;
    const truth = label ?? Live.argmax(clean);
    let step = 0;
    if (Live.argmax(clean) === truth || !before)
      for (const { x } of Live.pgd(network, start, truth, options)) {
        attacked = x;
        yield { step: step++, steps: STEPS, x };
      }
    const received = deliver(attacked);
    const undisturbed = deliver(start);
    const differ = (a, b) => a.reduce((count, v, n) => count + (v !== b[n]), 0);
    const said = (x) => Live.softmax(network.logits(x));
    yield {
      done: true,
      label: truth,
      sent: start,
      attacked,
      received,
      changed: { attacked: differ(start, attacked), received: differ(undisturbed, received) },
      said: { clean: said(undisturbed), sent: said(start), attacked: said(attacked), received: said(received) },
    };
  };
});
