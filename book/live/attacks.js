// Attacks on one image, step by step: each is a generator of what it has after a step,
// {x, logits, gradient?}, and ends at the first x that the network gets wrong.
Live.define((Live) => {
  "use strict";

  const f = Math.fround;
  const clamp = (v, low, high) => Math.min(Math.max(v, low), high);

  // Uniform in [0, 1), with 24 bits as a float32 has them: mulberry32.
  Live.random = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 8) / 2 ** 24;
  };

  Live.ball = (image, eps) => ({
    low: image.map((v) => clamp(f(v - f(eps / 255)), 0, 1)),
    high: image.map((v) => clamp(f(v + f(eps / 255)), 0, 1)),
  });

  // As reproduce.attacks.AdaptivePGD, from a random start. Without `random`, as reproduce.attacks.PGD
  // from the image itself: that one goes on to the last step.
  // filter: what happens to an image on its way to the network; its derivative is taken as 1.
  Live.pgd = function* (network, image, label, { eps, step, steps, random, filter = (x) => x }) {
    const { low, high } = Live.ball(image, eps);
    let x = random ? low.map((v, n) => f(v + f(f(high[n] - v) * random()))) : image;
    for (let done = 0; ; done++) {
      const logits = network.logits(filter(x));
      const wrong = Live.argmax(logits) !== label;
      const gradient = network.gradient(logits, label);
      yield { x, logits, gradient };
      if ((wrong && random) || done === steps) return;
      const size = f(step / 255);
      x = x.map((v, n) => clamp(f(v + size * Math.sign(gradient[n])), low[n], high[n]));
    }
  };

  // The share of the image's pixels that a square covers: it falls with the part of the queries that
  // is spent, here in ten thousandths.
  const share = (spent) => {
    const after = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000];
    return 0.8 / 2 ** after.filter((n) => spent > n).length;
  };

  // Random search that asks for nothing but answers: a square is kept where it lowers the margin of
  // the right answer. Andriushchenko et al. 2020, in the order in which torchattacks draws.
  Live.square = function* (network, image, label, { eps, queries, random }) {
    const [channels, height, width] = network.shape;
    const { low, high } = Live.ball(image, eps);
    const sign = () => (random() > 0.5 ? 1 : -1);
    const stripes = Array.from({ length: channels * width }, sign);
    let x = image.map((v, n) => {
      const stripe = stripes[Math.floor(n / (height * width)) * width + (n % width)];
      return stripe > 0 ? high[n] : low[n];
    });
    let logits = network.logits(x);
    yield { x, logits };
    for (let query = 0; query < queries && Live.argmax(logits) === label; query++) {
      const spent = Math.trunc((query / queries) * 10000);
      const side = Math.max(Math.round(Math.sqrt(share(spent) * height * width)), 1);
      const top = Math.floor((height - side) * random());
      const left = Math.floor((width - side) * random());
      const next = x.slice();
      for (let c = 0; c < channels; c++) {
        const to = sign() > 0 ? high : low; // a move by twice eps ends at the ball's edge
        for (let y = top; y < top + side; y++) {
          const row = (c * height + y) * width;
          for (let n = row + left; n < row + left + side; n++) next[n] = to[n];
        }
      }
      const answer = network.logits(next);
      if (Live.margin(answer, label) > Live.margin(logits, label)) [x, logits] = [next, answer];
      yield { x, logits };
    }
  };

  Live.zeroShare = (gradient) => gradient.filter((g) => g === 0).length / gradient.length;
});
