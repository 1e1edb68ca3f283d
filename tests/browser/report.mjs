// Opens a file in Chromium at several widths, and prints as JSON what it asked for, what it said, and how it lies there.
//
//     node report.mjs PACKAGES CHROMIUM FILE PICTURES
//
// PACKAGES holds node_modules; PICTURES is a folder for a screenshot of each width.

import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, chromium, file, pictures] = process.argv.slice(2);
const { chromium: browsers } = createRequire(resolve(packages, "package.json"))("playwright-core");
const browser = await browsers.launch({ executablePath: chromium, args: ["--no-sandbox"] });
const found = { requests: [], messages: [], widths: {} };
try {
  for (const width of [1280, 390]) {
    const tab = await browser.newPage({ viewport: { width, height: 900 } });
    tab.on("console", (message) => found.messages.push(message.text()));
    tab.on("pageerror", (error) => found.messages.push(String(error)));
    tab.on("request", (request) => {
      if (!request.url().startsWith("data:")) found.requests.push(request.url());
    });
    await tab.goto(pathToFileURL(file).href);
    found.widths[width] = await tab.evaluate(() => ({
      page: document.documentElement.scrollWidth,
      images: document.images.length,
      broken: [...document.images].filter((image) => !image.complete || !image.naturalWidth).length,
      // Text that another element's text covers would have a box of no size, or lie outside of the page.
      narrow: [...document.querySelectorAll("p, td, th, figcaption, h1, h2, h3")].filter((one) => {
        const box = one.getBoundingClientRect();
        return one.textContent.trim().length > 3 && box.width > 0 && box.width < 24;
      }).length,
      smallest: Math.min(
        ...[...document.querySelectorAll("p, td, th, small, figcaption")]
          .filter((one) => one.textContent.trim())
          .map((one) => parseFloat(getComputedStyle(one).fontSize)),
      ),
    }));
    await tab.screenshot({ path: join(pictures, `${width}.png`), fullPage: true });
    await tab.close();
  }
  process.stdout.write(JSON.stringify(found));
} finally {
  await browser.close();
}
