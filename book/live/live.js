// The one global name of the page's scripts. Each is a factory that adds its part to it: a worker is
// made of the same factories, since a page that is opened as a file cannot load a script into one.
globalThis.Live = {
  parts: [],
  networks: {}, // by name, as the exported scripts put them there
  define(factory) {
    this.parts.push(factory);
    factory(this);
  },
};
