// The halftones of reproduce/dither.py, byte for byte, and what a picture meets on its way.
Live.define((Live) => {
  "use strict";

  const clamp = (v) => Math.min(Math.max(v, 0), 255);
  const roundEven = (v) => {
    const low = Math.floor(v);
    const rest = v - low;
    return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
  };
  const wholeLevels = (bits) =>
    Array.from({ length: 2 ** bits }, (_, k) => roundEven((k * 255) / (2 ** bits - 1)));

  // As the second paper's released code: on integers, each share of the error rounded, each sum
  // clipped, nothing down-left from the first two columns.
  function floydSteinberg(image, bits, [channels, height, width]) {
    const out = Uint8Array.from(image);
    const add = (n, share) => (out[n] = clamp(out[n] + share));
    for (let row = 0; row < channels * height; row++) {
      const last = row % height === height - 1;
      for (let x = 0, n = row * width; x < width; x++, n++) {
        const old = out[n];
        out[n] = Math.floor((Math.floor(old / 2 ** (8 - bits)) / (2 ** bits - 1)) * 255);
        const error = old - out[n];
        if (x + 1 < width) add(n + 1, roundEven((error * 7) / 16));
        if (last) continue;
        if (x > 1) add(n + width - 1, roundEven((error * 3) / 16));
        add(n + width, roundEven((error * 5) / 16));
        if (x + 1 < width) add(n + width + 1, roundEven((error * 1) / 16));
      }
    }
    return out;
  }

  // The entry of Bayer's 8 x 8 matrix: the bits of x ^ y and x, the finest place weighing most.
  function bayerEntry(y, x) {
    let m = 0;
    for (let bit = 0; bit < 3; bit++) {
      const [a, b] = [(y >> bit) & 1, (x >> bit) & 1];
      m = 4 * m + [0, 2, 3, 1][2 * a + b];
    }
    return m;
  }

  function bayer(image, bits, [, height, width]) {
    const levels = wholeLevels(bits);
    return Uint8Array.from(image, (grey, n) => {
      const m = bayerEntry(Math.floor(n / width) % height, n % width);
      let k = 0;
      while (k < levels.length - 2 && levels[k + 1] <= grey) k++;
      const [lower, upper] = [levels[k], levels[k + 1]];
      return 128 * (grey - lower) > (2 * m + 1) * (upper - lower) ? upper : lower;
    });
  }

  const JARVIS = [
    [0, 0, 0, 7, 5],
    [3, 5, 7, 5, 3],
    [1, 3, 5, 3, 1],
  ].map((row) => row.map((share) => share / 48));

  function jarvis(image, bits, [channels, height, width]) {
    const levels = wholeLevels(bits);
    const out = new Uint8Array(image.length);
    for (let c = 0; c < channels; c++) {
      const running = Float64Array.from(image.subarray(c * height * width, (c + 1) * height * width));
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) {
          const value = running[y * width + x];
          // Of two levels as near, the lower.
          let level = levels[0];
          for (let k = 1; k < levels.length; k++)
            if (2 * value > levels[k - 1] + levels[k]) level = levels[k];
          out[(c * height + y) * width + x] = level;
          for (let dy = 0; dy < 3 && y + dy < height; dy++)
            for (let dx = Math.max(-2, -x); dx < 3 && x + dx < width; dx++)
              running[(y + dy) * width + x + dx] += (value - level) * JARVIS[dy][dx + 2];
        }
    }
    return out;
  }

  // Images of whole grey values, Uint8Array of [C, H, W], to 2^bits levels.
  Live.halftones = { floyd_steinberg: floydSteinberg, bayer, jarvis };

  Live.toFloat = (bytes) => Float32Array.from(bytes, (v) => v / 255);
  Live.toBytes = (x) => Uint8Array.from(x, (v) => roundEven(Math.fround(v * 255)));

  // What the sender makes of a picture: a halftone or none, then the levels. In [0, 1].
  Live.send = (bytes, { bits, halftone }, shape) => {
    const dithered = halftone === "none" || bits === 8 ? bytes : Live.halftones[halftone](bytes, bits, shape);
    return Live.linearQuantize(Live.toFloat(dithered), bits, "floor");
  };
});
