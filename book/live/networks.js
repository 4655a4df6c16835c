// A network from its exported script: answers, and the gradient of the cross-entropy at the image.
Live.define((Live) => {
  "use strict";

  Live.bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

  Live.softmax = (logits) => {
    const most = Math.max(...logits);
    const powers = Array.from(logits, (v) => Math.exp(v - most));
    const sum = powers.reduce((a, b) => a + b);
    return powers.map((v) => v / sum);
  };

  Live.argmax = (values) => values.indexOf(Math.max(...values));

  // The best wrong logit less the right one.
  Live.margin = (logits, label) =>
    Math.max(...logits.filter((_, n) => n !== label)) - logits[label];

  Live.crossEntropy = (logits, label) => {
    const most = Math.max(...logits);
    const sum = logits.reduce((total, v) => total + Math.exp(v - most), 0);
    return Math.log(sum) + most - logits[label];
  };

  class Network {
    // exported: {layers, weights}. shape: of an image, [C, H, W].
    constructor({ layers, weights }, shape) {
      const numbers = new Float32Array(Live.bytes(weights).buffer);
      let used = 0;
      const take = (n) => numbers.subarray(used, (used += n));
      this.layers = Live.layers(layers, take);
      if (used !== numbers.length) throw new Error(`${used} of ${numbers.length} numbers were used`);
      this.shape = shape;
    }

    setRule(rule, temperature) {
      for (const layer of this.layers) layer.setRule?.(rule, temperature);
    }

    // x: Float32Array in [0, 1] of `shape`.
    logits(x) {
      return this.layers.reduce((t, layer) => layer.forward(t), { data: x, shape: this.shape }).data;
    }

    // Of the cross-entropy, for the x that `logits` saw last: in float32, in which it is zero where
    // the network is sure enough.
    gradient(logits, label) {
      const most = Math.max(...logits);
      const sum = logits.reduce((total, v) => total + Math.exp(v - most), 0);
      const grad = logits.map((v, n) => {
        const p = Math.fround(Math.exp(Math.fround(v - most - Math.log(sum))));
        return n === label ? p - 1 : p;
      });
      return this.layers.reduceRight((g, layer) => layer.backward(g), { data: grad, shape: [10] })
        .data;
    }
  }

  Live.Network = Network;
});
