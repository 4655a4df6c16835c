// Visits pages of the built site as a reader would, and prints what is wrong with them, as JSON.
//
//     node visit.mjs SITE PAGE ...
//
// SITE: folder of the site. PAGE: file below it. CHROMIUM: the browser. What is printed:
// {page: {state: {serious, contrast, errors, requests, overflow}}}, each a list; a state is a width
// and a scheme.
import { pathToFileURL } from "node:url";
import axe from "axe-core";
import { chromium } from "playwright-core";

const STATES = {
  "desktop, light": { viewport: { width: 1280, height: 900 }, colorScheme: "light" },
  "desktop, dark": { viewport: { width: 1280, height: 900 }, colorScheme: "dark" },
  "phone, light": { viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true },
};

const [site, ...pages] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const found = Object.fromEntries(pages.map((page) => [page, {}]));
for (const [state, options] of Object.entries(STATES)) {
  const context = await browser.newContext({ ...options, reducedMotion: "reduce" });
  for (const page of pages) found[page][state] = await visit(context, page);
  await context.close();
}
await browser.close();
console.log(JSON.stringify(found));

async function visit(context, file) {
  const page = await context.newPage();
  const errors = [];
  const requests = [];
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => /^(file|data|blob):/.test(request.url()) || requests.push(request.url()));
  await page.goto(pathToFileURL(`${site}/${file}`).href, { waitUntil: "load" });
  await page.waitForFunction(() => document.readyState === "complete");
  await page.evaluate(() => window.MathJax?.startup?.promise);
  // What is folded is read too; what is behind a tab as well.
  await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
  await page.addStyleTag({ content: ".sd-tab-set > .sd-tab-content { display: block !important; }" });
  const overflow = await page.evaluate(wider);
  await page.addScriptTag({ content: axe.source });
  const { serious, contrast } = await page.evaluate(audit);
  await page.close();
  return { serious, contrast, errors, requests, overflow };
}

// Which elements make the page wider than the window: what scrolls by itself does not.
function wider() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const scrolls = (e) => e && (getComputedStyle(e).overflowX !== "visible" || scrolls(e.parentElement));
  return [...document.body.querySelectorAll("*")]
    .filter((e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e.parentElement))
    .map((e) => `${e.tagName.toLowerCase()}.${e.className}`)
    .slice(0, 10);
}

// Rules that are broken seriously; and, stricter than they are, large texts of less than 4.5 to 1.
async function audit() {
  const text = (node) => `${node.target.join(" ")}: ${node.any[0]?.message ?? node.failureSummary}`;
  const { violations, passes } = await window.axe.run(document, {
    resultTypes: ["violations", "passes"],
    preload: false, // it would ask for the style sheets again
  });
  const serious = violations
    .filter((v) => ["serious", "critical"].includes(v.impact))
    .map((v) => ({ rule: v.id, number: v.nodes.length, where: v.nodes.slice(0, 5).map(text) }));
  const judged = passes.find((rule) => rule.id === "color-contrast")?.nodes ?? [];
  const contrast = judged
    .filter((node) => node.any[0]?.data?.contrastRatio < 4.5)
    .map((node) => `${node.target.join(" ")}: ${node.any[0].data.contrastRatio}`);
  return { serious, contrast };
}
