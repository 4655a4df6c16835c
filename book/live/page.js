// What both parts of the live page share: the settings in the address, networks, pictures, charts.
(() => {
  "use strict";

  const base = document.currentScript.src.replace(/[^/]*$/, "");
  const Page = (globalThis.LivePage = {});

  // --- The settings stand in the address, as #name=value&…, where they are not the first ones. -----

  const forms = () => [...document.querySelectorAll("form.live")];
  // Not FormData, which leaves out what is disabled for the moment.
  const controls = (form) =>
    [...form.elements].filter((c) => c.name && (c.type !== "radio" || c.checked));
  const values = () => forms().flatMap((form) => controls(form).map((c) => [c.name, c.value]));
  let first;

  Page.settings = (form) =>
    Object.fromEntries(
      controls(form).map(({ name, value, type }) => [
        name,
        type === "range" || type === "number" ? Number(value) : value,
      ]),
    );

  // What a form's text fields hold is read by this, by name: true if it is such a text.
  Page.readers = {};

  // A value that a control does not have leaves it as it is; false then.
  function put(name, value) {
    for (const form of forms()) {
      const control = form.elements.namedItem(name);
      if (!control) continue;
      const before = control.value;
      control.value = value;
      const read = Page.readers[name] ?? (() => control.checkValidity?.() ?? true);
      if (control.value === value && read(value)) return true;
      control.value = before;
    }
    return false;
  }

  const brief = (text) => (text.length > 24 ? `${text.slice(0, 24)}…` : text);

  function allowed(name) {
    const control = forms().map((form) => form.elements.namedItem(name)).find(Boolean);
    if (!control) return "no such setting";
    if (Page.readers[name]) return "not what a drawing is written as";
    const choices = control.options ?? (control instanceof RadioNodeList ? control : null);
    if (choices) return `allowed: ${[...choices].map((choice) => choice.value).join(", ")}`;
    return `allowed: ${control.min} to ${control.max} in steps of ${control.step}`;
  }

  Page.readAddress = () => {
    first ??= values();
    if (location.hash && !location.hash.includes("=")) return; // a heading's anchor
    const given = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of first) put(name, value);
    const passed = [...given].filter(([name, value]) => !put(name, value));
    const said = passed.map(([name, value]) => `${brief(name)}=${brief(value)} (${allowed(name)})`);
    const line = document.getElementById("live-ignored");
    line.hidden = !said.length;
    line.textContent = `Ignored in the address: ${said.join("; ")}.`;
  };

  Page.writeAddress = () => {
    const start = Object.fromEntries(first);
    const changed = values().filter(([name, value]) => start[name] !== value);
    const hash = new URLSearchParams(changed).toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  };

  // --- Networks are scripts that are loaded when they are chosen. ----------------------------------

  const loading = {};
  Page.load = (name) =>
    (loading[name] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${base}networks/${name}.js`;
      script.onload = () => resolve(Live.networks[name]);
      script.onerror = () => {
        delete loading[name];
        reject(new Error(`The network ${name} could not be loaded.`));
      };
      document.head.append(script);
    }));

  Page.examples = (kind) => {
    const { shape, labels, pixels } = Live.examples[kind];
    const size = shape[1] * shape[2] * shape[3];
    const all = Live.bytes(pixels);
    const images = labels.map((_, n) => all.slice(n * size, (n + 1) * size));
    return { shape: shape.slice(1), labels, images };
  };

  // --- What is shown. ------------------------------------------------------------------------------

  // values: of [C, H, W], 0 to 1; one channel is grey.
  Page.paint = (canvas, values, [channels, height, width]) => {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const picture = context.createImageData(width, height);
    const plane = height * width;
    for (let n = 0; n < plane; n++) {
      for (let c = 0; c < 3; c++)
        picture.data[4 * n + c] = Math.round(255 * values[n + (channels === 3 ? c * plane : 0)]);
      picture.data[4 * n + 3] = 255;
    }
    context.putImageData(picture, 0, 0);
  };

  // A row of radio buttons with a picture each, before what the row holds already.
  Page.choices = (row, name, { images, labels, shape }, describe) => {
    const items = images.map((image, n) => {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name, value: n });
      radio.defaultChecked = n === 0;
      radio.setAttribute("aria-label", describe(labels[n], n));
      const canvas = document.createElement("canvas");
      canvas.setAttribute("aria-hidden", "true");
      Page.paint(canvas, Live.toFloat(image), shape);
      label.append(radio, canvas);
      return label;
    });
    row.prepend(...items);
  };

  // A line through (step, value), over the whole width of a small chart.
  Page.chart = (svg, points, steps, top) => {
    const x = (n) => (300 * n) / Math.max(steps, 1);
    const y = (v) => 62 - (58 * Math.min(v, top)) / top;
    const line = points.map(([n, v]) => `${x(n).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    svg.querySelector("polyline").setAttribute("points", line);
    const [n, v] = points.at(-1) ?? [0, 0];
    const dot = svg.querySelector("circle");
    dot.setAttribute("cx", x(n));
    dot.setAttribute("cy", y(v));
  };

  Page.percent = (share) => {
    const text = (100 * share).toFixed(share > 0.999 || share < 0.001 ? 2 : 1);
    return `${text.replace(/\.0+$/, "")} %`;
  };

  Page.start = () => {
    for (const live of document.querySelectorAll(".live-fallback")) live.remove();
    for (const form of forms()) {
      form.hidden = false;
      form.addEventListener("submit", (event) => event.preventDefault());
      form.addEventListener("change", ({ target }) => target.name && Page.writeAddress());
      for (const output of form.querySelectorAll("output[for]")) {
        const control = form.elements.namedItem(output.htmlFor.value);
        output.show = () => (output.value = control.value);
        control.addEventListener("input", output.show);
      }
    }
    Page.readAddress();
    const show = () => document.querySelectorAll("form.live output[for]").forEach((o) => o.show());
    show();
    addEventListener("hashchange", () => {
      Page.readAddress();
      show();
      for (const form of forms()) form.dispatchEvent(new Event("settings"));
    });
    for (const form of forms()) form.dispatchEvent(new Event("settings"));
  };
})();
