// Opens a page of a folder in Chromium, and prints what the page makes.
//
//     node run.mjs PACKAGES CHROMIUM FOLDER PAGE
//
// The page sets `window.result`, a string. PACKAGES holds node_modules.

import { launch, serve } from "./serve.mjs";

const [packages, chromium, folder, page] = process.argv.slice(2);
const server = await serve(packages, folder), browser = await launch(packages, chromium);
try {
  const tab = await browser.newPage();
  tab.on("console", (message) => console.error(message.text()));
  tab.on("pageerror", (error) => console.error(error));
  await tab.goto(`${server.url}/${page}`);
  await tab.waitForFunction(() => window.result !== undefined, null, { timeout: 60_000 });
  process.stdout.write(await tab.evaluate(() => window.result));
} finally {
  await browser.close();
  server.close();
}
