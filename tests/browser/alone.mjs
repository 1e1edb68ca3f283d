// Uses the page of examples/browser in Chromium as a person does, and prints as JSON what there was to see.
//
//     node alone.mjs PACKAGES CHROMIUM PAGE CASES.json PICTURES
//
// PAGE is the folder of the page; CASES.json a list of what is chosen: { name, program, input, provider, and values of
// fields }; PICTURES a folder for screenshots, of cases with `picture` in dark and light at two widths.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { launch, serve } from "./serve.mjs";

const [packages, chromium, page, cases, pictures] = process.argv.slice(2);
const server = await serve(packages, page), browser = await launch(packages, chromium);
const found = { requests: [], messages: [], cases: {} };
const idle = (tab) => tab.waitForFunction(() => !document.querySelector("#status").textContent.endsWith("…"), null, { timeout: 60_000 });
const seen = (tab) =>
  tab.evaluate(() => ({
    page: document.documentElement.scrollWidth,
    canvases: document.querySelectorAll("canvas").length,
    smallest: Math.min(
      ...[...document.querySelectorAll("p, td, th, small, dd, dt, label, code, caption")]
        .filter((one) => one.textContent.trim() && one.checkVisibility())
        .map((one) => parseFloat(getComputedStyle(one).fontSize)),
    ),
    ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.documentElement).backgroundColor,
  }));

async function tried(one) {
  const tab = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  tab.on("console", (message) => found.messages.push(`${one.name}: ${message.text()}`));
  tab.on("pageerror", (error) => found.messages.push(`${one.name}: ${error}`));
  tab.on("request", (request) => found.requests.push(request.url()));
  await tab.goto(`${server.url}/index.html`);
  if (one.provider) await tab.selectOption("#provider", one.provider);
  await tab.setInputFiles("#program", one.program);
  await idle(tab);
  const told = { adapter: await tab.evaluate(async () => (await navigator.gpu?.requestAdapter()) != null) };
  const refused = () => tab.evaluate(() => (document.querySelector("#refusal").hidden ? "" : document.querySelector("#refusal").innerText));
  if (!(told.refused = await refused())) {
    if (one.input) {
      await tab.setInputFiles("#input", one.input);
      await idle(tab);
    }
    for (const name of ["row", "target", "baseline", "steps"]) if (one[name] !== undefined) await tab.fill(`#${name}`, String(one[name]));
    if (one.scale) await tab.selectOption("#scale", one.scale);
    if (one.row !== undefined) await tab.locator("#row").blur();
    if (!(told.refused = await refused())) {
      await tab.focus("#go");
      await tab.keyboard.press("Enter");
      await tab.waitForFunction(() => window.result !== undefined, null, { timeout: 90_000 });
      told.answers = JSON.parse(await tab.evaluate(() => window.result));
      told.refused = await refused();
    }
  }
  told.status = await tab.textContent("#status");
  told.words = await tab.innerText("#answers");
  if (one.picture) {
    told.widths = {};
    for (const colorScheme of ["light", "dark"]) {
      for (const width of [1280, 390]) {
        await tab.emulateMedia({ colorScheme });
        await tab.setViewportSize({ width, height: 900 });
        told.widths[`${colorScheme} ${width}`] = await seen(tab);
        await tab.screenshot({ path: join(pictures, `${one.name}-${colorScheme}-${width}.png`), fullPage: true });
      }
    }
  }
  await tab.close();
  return told;
}

try {
  for (const one of JSON.parse(await readFile(cases))) found.cases[one.name] = await tried(one);
  process.stdout.write(JSON.stringify({ ...found, at: server.url }));
} finally {
  await browser.close();
  server.close();
}
