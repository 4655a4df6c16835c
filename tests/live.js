// Runs the live page's scripts outside a browser: `node tests/live.js FOLDER` loads them from the
// folder that notebooks/live.py wrote, reads {"run": source of a function body, "given": any} from
// standard input, and prints what the function returns. Floats survive: float32 fits a JSON number.
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const folder = process.argv[2];
const load = (name) => vm.runInThisContext(fs.readFileSync(path.join(folder, name), "utf8"), name);
const parts = ["live", "layers", "quantizers", "networks", "attacks", "dither", "double"];
for (const name of [...parts, "examples"]) load(`${name}.js`);

// A network by its name, and an image of the examples in [0, 1].
const network = (name) => {
  load(`networks/${name}.js`);
  const images = Live.networks[name].layers[0].shape[1] === 1 ? "digits" : "pictures";
  return new Live.Network(Live.networks[name], Live.examples[images].shape.slice(1));
};
const example = (kind, n) => {
  const { shape, pixels } = Live.examples[kind];
  const size = shape[1] * shape[2] * shape[3];
  return Live.bytes(pixels).subarray(n * size, (n + 1) * size);
};

const { run, given } = JSON.parse(fs.readFileSync(0, "utf8"));
const result = new Function("Live", "network", "example", "given", run)(Live, network, example, given);
const plain = (_, v) => (ArrayBuffer.isView(v) ? Array.from(v) : v);
console.log(JSON.stringify(result, plain));
