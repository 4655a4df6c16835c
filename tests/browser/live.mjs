// Uses the live page as a reader would, and prints what was seen, as JSON.
//
//     node live.mjs PAGE
//
// PAGE: the built page, a file. CHROMIUM: the browser.
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const page = pathToFileURL(process.argv[2]).href;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const errors = [];
const requests = [];

async function open(hash, options = {}) {
  const context = await browser.newContext({ reducedMotion: "reduce", ...options });
  const tab = await context.newPage();
  tab.setDefaultTimeout(120_000);
  tab.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  tab.on("pageerror", (error) => errors.push(String(error)));
  tab.on("request", (request) => /^(file|data|blob):/.test(request.url()) || requests.push(request.url()));
  await tab.goto(page + hash, { waitUntil: "load" });
  return tab;
}

// Clicks, and waits for a status that `ends` fits.
async function press(tab, form, button, ends) {
  await tab.click(`#live-${form} [data-part="${button}"]`);
  return status(tab, form, ends);
}

async function status(tab, form, ends) {
  const line = tab.locator(`#live-${form} [data-part="status"]`).filter({ hasText: ends });
  return line.textContent();
}

// Of the digit as the network is shown it.
const pixels = (tab) =>
  tab.locator('#live-dqa [data-part="clean"]').evaluate((c) => c.toDataURL());

const ready = /^Without an attack/;
const END = /^(Broken|It stands|Nothing)/;
const seen = {};

let tab = await open("");
await status(tab, "dqa", ready);
seen.first = await press(tab, "dqa", "attack", END);
await tab.selectOption("#live-dqa [name=rule]", "sigmoid");
await status(tab, "dqa", ready);
seen.address = await tab.evaluate(() => location.hash);
seen.sigmoid = await press(tab, "dqa", "attack", END);
seen.square = await press(tab, "dqa", "square", END);
seen.double = await press(tab, "double", "attack", END);
seen.changed = await tab.textContent('#live-double [data-part="got-through"]');
seen.fallback = await tab.locator(".live-fallback").count();
await tab.context().close();

// Another reader, who was sent an address; a value that there is not is passed over.
tab = await open("#digit=2&activation=relu&eps=999&size=24&noise=before");
await status(tab, "dqa", ready);
seen.sent = await tab.evaluate(() =>
  Object.fromEntries([...new FormData(document.getElementById("live-dqa")), ...new FormData(document.getElementById("live-double"))]),
);
seen.ignored = await tab.textContent("#live-ignored");
// With keys alone: the box, the pen down, a line, and the network answers.
await tab.focus("#live-dqa [name=digit][value='2']");
for (let n = 2; n < 10; n++) await tab.keyboard.press("ArrowRight");
await tab.focus('#live-dqa [data-part="drawing"]');
await tab.keyboard.press(" ");
for (let n = 0; n < 17; n++) await tab.keyboard.press("ArrowDown");
seen.drawn = await status(tab, "dqa", ready);
// With the mouse: where the stroke ends.
const box = await tab.locator('#live-dqa [data-part="drawing"]').boundingBox();
await tab.mouse.move(box.x + 0.3 * box.width, box.y + 0.8 * box.height);
await tab.mouse.down();
await tab.mouse.move(box.x + 0.7 * box.width, box.y + 0.8 * box.height);
await tab.mouse.up();
seen.drawing = { says: await status(tab, "dqa", ready), pixels: await pixels(tab) };
const drawn = await tab.evaluate(() => location.hash);
seen.length = drawn.length;
await tab.context().close();

tab = await open(drawn);
seen.again = { says: await status(tab, "dqa", ready), pixels: await pixels(tab) };
seen.unsaid = await tab.locator("#live-ignored").isHidden();
await tab.context().close();

// Drawings that none is written as: too short, a letter that there is not, two pixels too many.
seen.malformed = [];
for (const ink of ["B".repeat(261), "!" + "B".repeat(261), "B".repeat(262)]) {
  tab = await open(`#digit=drawn&ink=${ink}`);
  await status(tab, "dqa", "Draw a digit in the box.");
  seen.malformed.push(await tab.textContent("#live-ignored"));
  await tab.context().close();
}

tab = await open("", { javaScriptEnabled: false });
seen.without = await tab.locator(".live-fallback img").evaluate((image) => image.naturalWidth);
seen.hidden = await tab.locator("form.live").first().isHidden();
await browser.close();
console.log(JSON.stringify({ ...seen, errors, requests }));
