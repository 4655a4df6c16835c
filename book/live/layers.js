// The layers of the networks, for one image: a tensor is {data: Float32Array, shape: [C, H, W]} or
// {data, shape: [M]}. `forward` keeps what `backward` needs; sums are taken in double precision.
Live.define((Live) => {
  "use strict";

  class Conv {
    constructor({ shape, stride, padding }, take) {
      [this.outputs, this.inputs, this.size] = shape;
      this.stride = stride;
      this.padding = padding;
      this.weight = take(this.outputs * this.inputs * this.size ** 2);
      this.bias = take(this.outputs);
    }

    // For each weight: from where in the padded input to which output channel.
    eachWeight(visit) {
      const plane = this.paddedHeight * this.paddedWidth;
      let n = 0;
      for (let o = 0; o < this.outputs; o++)
        for (let i = 0; i < this.inputs; i++)
          for (let y = 0; y < this.size; y++)
            for (let x = 0; x < this.size; x++)
              visit(this.weight[n++], i * plane + y * this.paddedWidth + x, o);
    }

    forward({ data, shape: [, height, width] }) {
      const { padding, stride, size, inputs } = this;
      this.inner = [inputs, height, width];
      this.paddedHeight = height + 2 * padding;
      this.paddedWidth = width + 2 * padding;
      this.height = Math.floor((this.paddedHeight - size) / stride) + 1;
      this.width = Math.floor((this.paddedWidth - size) / stride) + 1;
      const padded = new Float64Array(inputs * this.paddedHeight * this.paddedWidth);
      eachRow(this, (from, to) => padded.set(data.subarray(from, from + width), to));
      const plane = this.height * this.width;
      const sums = new Float64Array(this.outputs * plane);
      for (let o = 0; o < this.outputs; o++) sums.fill(this.bias[o], o * plane, (o + 1) * plane);
      this.eachWeight((weight, from, o) => gather(this, weight, padded, from, sums, o * plane));
      return { data: Float32Array.from(sums), shape: [this.outputs, this.height, this.width] };
    }

    backward({ data }) {
      const padded = new Float64Array(this.inputs * this.paddedHeight * this.paddedWidth);
      const plane = this.height * this.width;
      const grad = Float64Array.from(data);
      this.eachWeight((weight, to, o) => scatter(this, weight, grad, o * plane, padded, to));
      const [inputs, height, width] = this.inner;
      const out = new Float32Array(inputs * height * width);
      eachRow(this, (to, from) => out.set(padded.subarray(from, from + width), to));
      return { data: out, shape: this.inner };
    }
  }

  // The two loops in which all the time goes.
  function gather({ height, width, stride, paddedWidth }, weight, source, from, sums, to) {
    for (let y = 0; y < height; y++) {
      let at = from + y * stride * paddedWidth;
      for (let end = to + width; to < end; to++, at += stride) sums[to] += weight * source[at];
    }
  }

  function scatter({ height, width, stride, paddedWidth }, weight, grad, from, sums, to) {
    for (let y = 0; y < height; y++) {
      let at = to + y * stride * paddedWidth;
      for (let end = from + width; from < end; from++, at += stride) sums[at] += weight * grad[from];
    }
  }

  // Where each row of a layer's input begins, and where in the padded one.
  function eachRow({ inner: [inputs, height, width], padding, paddedHeight, paddedWidth }, visit) {
    for (let i = 0; i < inputs; i++)
      for (let y = 0; y < height; y++)
        visit((i * height + y) * width, (i * paddedHeight + y + padding) * paddedWidth + padding);
  }

  class Linear {
    constructor({ shape }, take) {
      [this.outputs, this.inputs] = shape;
      this.weight = take(this.outputs * this.inputs);
      this.bias = take(this.outputs);
    }

    forward({ data, shape }) {
      this.inner = shape;
      const out = new Float32Array(this.outputs);
      for (let o = 0, n = 0; o < this.outputs; o++) {
        let sum = this.bias[o];
        for (let i = 0; i < this.inputs; i++) sum += this.weight[n++] * data[i];
        out[o] = sum;
      }
      return { data: out, shape: [this.outputs] };
    }

    backward({ data }) {
      const sums = new Float64Array(this.inputs);
      for (let o = 0, n = 0; o < this.outputs; o++)
        for (let i = 0; i < this.inputs; i++) sums[i] += this.weight[n++] * data[o];
      return { data: Float32Array.from(sums), shape: this.inner };
    }
  }

  // The largest of 2 x 2; of equal ones the first takes the gradient, as in PyTorch.
  class Pool {
    forward({ data, shape }) {
      const [channels, height, width] = (this.inner = shape);
      const out = new Float32Array(data.length / 4);
      this.place = new Int32Array(out.length);
      for (let row = 0, n = 0; row < channels * height; row += 2)
        for (let x = 0; x < width; x += 2, n++) {
          const corner = row * width + x;
          let best = corner;
          for (const at of [corner + 1, corner + width, corner + width + 1])
            if (data[at] > data[best]) best = at;
          this.place[n] = best;
          out[n] = data[best];
        }
      return { data: out, shape: [channels, height / 2, width / 2] };
    }

    backward({ data }) {
      const out = new Float32Array(4 * data.length);
      data.forEach((g, n) => (out[this.place[n]] = g));
      return { data: out, shape: this.inner };
    }
  }

  class Mean {
    forward({ data, shape }) {
      this.inner = shape;
      const [channels, height, width] = shape;
      const plane = height * width;
      const out = new Float32Array(channels);
      for (let c = 0; c < channels; c++)
        out[c] = data.subarray(c * plane, (c + 1) * plane).reduce((a, b) => a + b, 0) / plane;
      return { data: out, shape: [channels] };
    }

    backward({ data }) {
      const plane = this.inner[1] * this.inner[2];
      const out = new Float32Array(data.length * plane);
      data.forEach((g, c) => out.fill(g / plane, c * plane, (c + 1) * plane));
      return { data: out, shape: this.inner };
    }
  }

  class Relu {
    forward({ data, shape }) {
      this.kept = data.map((v) => Math.max(v, 0));
      return { data: this.kept, shape };
    }

    backward({ data, shape }) {
      return { data: data.map((g, n) => (this.kept[n] > 0 ? g : 0)), shape };
    }
  }

  // What a residual block adds to its body: its input, in a new stage every second pixel of it
  // between channels of zeros.
  class Block {
    constructor({ body, stride, extra }, take) {
      Object.assign(this, { stride, before: extra / 2, body: Live.layers(body, take) });
    }

    eachShort([channels, height, width], visit) {
      const [, h, w] = [0, height / this.stride, width / this.stride];
      for (let c = 0; c < channels; c++)
        for (let y = 0; y < h; y++)
          for (let x = 0; x < w; x++)
            visit(
              (c * height + y * this.stride) * width + x * this.stride,
              ((c + this.before) * h + y) * w + x,
            );
    }

    forward(input) {
      this.inner = input.shape;
      const out = this.body.reduce((x, layer) => layer.forward(x), input);
      this.eachShort(this.inner, (from, to) => (out.data[to] += input.data[from]));
      return out;
    }

    backward(grad) {
      const out = this.body.reduceRight((g, layer) => layer.backward(g), grad);
      this.eachShort(this.inner, (to, from) => (out.data[to] += grad.data[from]));
      return out;
    }
  }

  const kinds = { conv: Conv, linear: Linear, pool: Pool, mean: Mean, relu: Relu, block: Block };

  // `take(n)` gives the next n of the network's numbers.
  Live.layers = (descriptions, take) =>
    descriptions.map((what) => new (kinds[what.kind] ?? Live.quantizers[what.kind])(what, take));
});
