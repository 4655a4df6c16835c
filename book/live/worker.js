// Work beside the page, which stays alive meanwhile.
Live.define((Live) => {
  "use strict";

  // What a worker does with a message: {exported, shape, picture, label, settings}.
  Live.serve = ({ exported, shape, picture, label, settings }) => {
    const network = new Live.Network(exported, shape);
    for (const stage of Live.doubleQuantization(network, picture, label, settings))
      postMessage(stage);
  };

  // Starts a worker on `job`, and hands each stage to `receive`; returns what stops it.
  Live.inWorker = (job, receive, fail) => {
    const globals = "globalThis.Live = {define(factory) { factory(this); }};";
    const parts = Live.parts.map((factory) => `Live.define(${factory});`);
    const source = [globals, ...parts, "onmessage = ({data}) => Live.serve(data);"].join("\n");
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const worker = new Worker(url);
    const stop = () => {
      worker.terminate();
      URL.revokeObjectURL(url);
    };
    worker.onmessage = ({ data }) => {
      receive(data);
      if (data.done) stop();
    };
    worker.onerror = ({ message }) => {
      stop();
      fail(message);
    };
    worker.postMessage(job);
    return stop;
  };
});
