// Uses the page of a model in Chromium as a person does, and prints as JSON what there was to see.
//
//     node desk.mjs PACKAGES CHROMIUM URL FILE PICTURES
//
// PACKAGES holds node_modules; FILE is sent as an input; PICTURES is a folder for screenshots and the saved file.

import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, chromium, url, file, pictures] = process.argv.slice(2);
const { chromium: browsers } = createRequire(resolve(packages, "package.json"))("playwright-core");
const browser = await browsers.launch({ executablePath: chromium, args: ["--no-sandbox"] });
const found = { requests: [], messages: [], widths: {} };

const watched = (tab) => {
  tab.on("console", (message) => found.messages.push(message.text()));
  tab.on("pageerror", (error) => found.messages.push(String(error)));
  tab.on("request", (request) => {
    if (!/^(data|file):/.test(request.url())) found.requests.push(request.url());
  });
  return tab;
};
const answered = (tab, sides = 1) =>
  tab.waitForFunction(
    (count) =>
      document.querySelectorAll(".side[data-final], .side .refusal").length === count &&
      !document.querySelector("[aria-busy]"),
    sides,
    { timeout: 60000 },
  );
const seen = (tab) =>
  tab.evaluate(() => ({
    page: document.documentElement.scrollWidth,
    images: document.images.length,
    broken: [...document.images].filter((image) => !image.complete || !image.naturalWidth).length,
    narrow: [...document.querySelectorAll("p, td, th, figcaption, h1, h2, h3, dd, a")].filter((one) => {
      const box = one.getBoundingClientRect();
      return one.textContent.trim().length > 3 && box.width > 0 && box.width < 24;
    }).length,
    smallest: Math.min(
      ...[...document.querySelectorAll("p, td, th, small, dd, dt, label, code")]
        .filter((one) => one.textContent.trim())
        .map((one) => parseFloat(getComputedStyle(one).fontSize)),
    ),
    ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.documentElement).backgroundColor,
  }));

try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  const tab = watched(await context.newPage());
  // Each revision that stands there, as it comes.
  await tab.addInitScript(() => {
    window.numbers = [];
    addEventListener("DOMContentLoaded", () =>
      new MutationObserver((changes) => {
        for (const { target } of changes) if (target.matches(".side")) window.numbers.push(Number(target.dataset.revision));
      }).observe(document, { subtree: true, attributeFilter: ["data-revision"] }),
    );
  });
  await tab.goto(url);
  await answered(tab);
  found.opened = { address: tab.url(), numbers: await tab.evaluate(() => window.numbers) };
  found.opened.final = await tab.evaluate(() => Number(document.querySelector(".side[data-final]").dataset.final));
  await tab.screenshot({ path: join(pictures, "opened.png"), fullPage: true });

  await tab.click(".spine a:has-text('relu2')");
  await tab.waitForURL((to) => to.searchParams.get("layer") === "relu2");
  await answered(tab);
  found.picked = await tab.evaluate(() => ({
    layer: document.querySelector(".answer figcaption").textContent,
    current: document.querySelector(".spine [aria-current]").textContent,
    facts: document.querySelector("dl.facts").textContent,
  }));

  await tab.click("table.units a");
  await tab.waitForURL((to) => to.pathname === "/unit");
  found.unit = { ...(await seen(tab)), title: await tab.textContent("h1") };
  await tab.screenshot({ path: join(pictures, "unit.png"), fullPage: true });
  await tab.goBack();
  await answered(tab);

  await tab.setInputFiles("#file-1", { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("no input") });
  await tab.waitForSelector("#uploaded .refusal");
  found.wrong = await tab.textContent("#uploaded");
  await tab.evaluate(() => (document.getElementById("form").dataset.most = 2 ** 19));
  await tab.setInputFiles("#file-1", { name: "huge.npy", mimeType: "text/plain", buffer: Buffer.alloc(2 ** 20) });
  found.huge = await tab.textContent("#uploaded");
  await tab.evaluate(() => (document.getElementById("form").dataset.most = 2 ** 26));
  await tab.setInputFiles("#file-1", file);
  await tab.waitForURL((to) => !["data", "beside:three.npy", null].includes(to.searchParams.get("input")));
  await answered(tab);
  found.uploaded = await tab.evaluate(() => ({
    input: document.querySelector("#input").selectedOptions[0].textContent,
    command: document.querySelector("pre").textContent,
  }));

  await tab.click("form details:has(#baseline) summary");
  await tab.setInputFiles("input[data-field=baseline_file]", file);
  await tab.waitForURL((to) => to.searchParams.has("baseline_file"));
  await answered(tab);
  found.baseline = await tab.evaluate(() => document.querySelector("dl.facts").textContent);
  await tab.selectOption("#baseline_file", "");
  await tab.click("#form button");
  await tab.waitForURL((to) => !to.searchParams.has("baseline_file"));
  await answered(tab);

  // From here on with the keyboard alone.
  await tab.focus("#compare summary");
  await tab.keyboard.press("Enter");
  await tab.keyboard.press("Tab");
  await tab.keyboard.type("deeplift rescale");
  found.focused = await tab.evaluate(() => document.activeElement.name);
  await tab.focus("#form button");
  await tab.keyboard.press("Enter");
  await tab.waitForURL((to) => to.searchParams.has("b.method"));
  await answered(tab, 2);
  found.compared = await tab.evaluate(() => [...document.querySelectorAll(".side h2")].map((one) => one.textContent));
  const compared = tab.url();

  const [download] = await Promise.all([tab.waitForEvent("download"), tab.click("#export")]);
  const saved = join(pictures, download.suggestedFilename());
  await download.saveAs(saved);

  await tab.fill("#target", "77");
  await tab.keyboard.press("Enter");
  await tab.waitForURL((to) => to.searchParams.get("target") === "77");
  await answered(tab, 2);
  found.refused = await tab.evaluate(() => document.querySelector(".side .refusal").textContent);
  found.saved_refusals = await tab.locator("#export").count();
  await tab.screenshot({ path: join(pictures, "refused.png"), fullPage: true });

  for (const colorScheme of ["light", "dark"]) {
    for (const width of [1280, 390]) {
      const other = watched(await context.newPage());
      await other.emulateMedia({ colorScheme });
      await other.setViewportSize({ width, height: 900 });
      await other.goto(compared);
      await answered(other, 2);
      found.widths[`${colorScheme} ${width}`] = await seen(other);
      await other.screenshot({ path: join(pictures, `${colorScheme}-${width}.png`), fullPage: true });
      await other.close();
    }
  }

  const alone = await (await browser.newContext({ offline: true })).newPage();
  found.alone = { requests: [], messages: [] };
  alone.on("console", (message) => found.alone.messages.push(message.text()));
  alone.on("request", (request) => {
    if (!request.url().startsWith("data:")) found.alone.requests.push(request.url());
  });
  await alone.goto(pathToFileURL(saved).href);
  found.alone = { ...found.alone, ...(await seen(alone)), commands: await alone.locator("pre").allTextContents() };
  await alone.screenshot({ path: join(pictures, "saved.png"), fullPage: true });
  process.stdout.write(JSON.stringify(found));
} finally {
  await browser.close();
}
