// The quantisers of both papers, value for value those of reproduce/quantizers.py: every operation is
// rounded to float32, in which a gradient can vanish that double precision would still see.
Live.define((Live) => {
  "use strict";

  const f = Math.fround;
  // To the nearest whole number, halves to even.
  const roundEven = (v) => {
    const low = Math.floor(v);
    const rest = v - low;
    return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
  };
  const sigmoid = (v) => f(1 / f(1 + f(Math.exp(-v))));

  // What stands in for the derivative of the sign of u, the distance to a step.
  const slopes = {
    zero: () => 0,
    straight_through: (u) => (Math.abs(u) <= 1 ? 1 : 0),
    tanh: (u) => {
      const t = f(Math.tanh(u));
      return f(1 - f(t * t));
    },
    sigmoid: (u, temperature) => {
      const s = sigmoid(f(temperature * u));
      return f(f(f(2 * temperature) * s) * f(1 - s));
    },
  };

  class Quantizer {
    constructor({ bits }) {
      this.top = 2 ** bits - 1;
      this.setRule("straight_through");
    }

    setRule(rule, temperature = 1) {
      this.rule = rule;
      this.temperature = temperature;
    }

    // The sum over all steps of the stand-in's slope, each step as high as `heights` says.
    staircase(x, thresholds, heights) {
      const slope = slopes[this.rule];
      let sum = 0;
      for (let j = 0; j < thresholds.length; j++)
        sum = f(sum + f(slope(f(x - thresholds[j]), this.temperature) * heights[j]));
      return sum;
    }
  }

  // DQA, Eq. 1-3; the maximum is over one image.
  class Fixed extends Quantizer {
    forward({ data, shape }) {
      const { top } = this;
      this.x = data;
      this.largest = f(Math.tanh(data.reduce((a, b) => Math.max(a, Math.abs(b)), 0))) || 1;
      const out = data.map((v) => {
        const y = f(f(Math.tanh(v)) / this.largest);
        const k = roundEven(f(top * f(f(y / 2) + 0.5)));
        return f(f((2 * k) / top) - 1);
      });
      return { data: out, shape };
    }

    backward({ data, shape }) {
      const { top, largest, x } = this;
      if (this.rule === "zero") return { data: new Float32Array(data.length), shape };
      if (this.rule === "straight_through") {
        const slope = (v) => f(f(1 - f(f(Math.tanh(v)) ** 2)) / largest);
        return { data: data.map((g, n) => g * slope(x[n])), shape };
      }
      const steps = Array.from({ length: top }, (_, k) => (2 * (k + 1) - top - 1) / top);
      const thresholds = steps.map((s) => f(Math.atanh(f(s * largest))));
      const heights = steps.map(() => 1 / top);
      return { data: data.map((g, n) => g * this.staircase(x[n], thresholds, heights)), shape };
    }
  }

  // DQA, Eq. 8: half the sum of the jumps between its levels, each with the sign of x - threshold.
  class Dynamic extends Quantizer {
    constructor(what, take) {
      super(what);
      const t = (this.thresholds = take(this.top));
      const middle = 2 ** (what.bits - 1) - 1;
      const levels = [-1, ...t.subarray(0, middle), ...t.subarray(middle + 1), 1];
      this.heights = Array.from(t, (_, j) => f(f(levels[j + 1] - levels[j]) / 2));
    }

    forward({ data, shape }) {
      this.x = data;
      const out = data.map((v) => {
        let sum = 0;
        this.thresholds.forEach((t, j) => (sum = f(sum + Math.sign(v - t) * this.heights[j])));
        return sum;
      });
      return { data: out, shape };
    }

    backward({ data, shape }) {
      const { thresholds, heights, x } = this;
      return { data: data.map((g, n) => g * this.staircase(x[n], thresholds, heights)), shape };
    }
  }

  Live.quantizers = { fixed: Fixed, dynamic: Dynamic };

  // Double quantization, section III: values in [0, 1] to the levels k / (2^bits - 1).
  Live.linearQuantize = (x, bits, rounding) => {
    const top = 2 ** bits - 1;
    return x.map((v) =>
      rounding === "nearest"
        ? f(roundEven(f(v * top)) / top)
        : f(Math.floor(f(f(f(255 * v) + f(1e-3)) / 2 ** (8 - bits))) / top),
    );
  };

  // The largest whole number of grey levels that linearQuantize is certain to remove. A level that was
  // rounded to a whole grey value, as in an 8-bit image, is up to one off; see `fileRadius`.
  Live.filterRadius = (bits, rounding) => {
    const top = 2 ** bits - 1;
    const spacing = 255 / top;
    if (rounding === "nearest") return Math.ceil(spacing / 2) - 1;
    const width = 2 ** (8 - bits);
    let radius = 255;
    for (let k = 0; k <= top; k++) {
      // In whole numbers: a quotient of 255 and top need not be one.
      if (k > 0) radius = Math.min(radius, Math.floor((255 * k - width * k * top) / top));
      if (k < top)
        radius = Math.min(radius, Math.ceil((width * (k + 1) * top - 255 * k) / top) - 1);
    }
    return radius;
  };

  // The same for an image that was dithered to whole grey values.
  Live.fileRadius = (bits, rounding) => {
    const whole = 255 % (2 ** bits - 1) === 0;
    const loss = rounding === "nearest" && !whole ? 1 : 0;
    return Math.max(0, Live.filterRadius(bits, rounding) - loss);
  };
});
