// Serves a folder and the npm packages on loopback, opens a page of it in Chromium, and prints what the page makes.
//
//     node run.mjs PACKAGES CHROMIUM FOLDER PAGE [PICTURE.png]
//
// The page sets `window.result`, a string; with PICTURE.png it is also drawn. PACKAGES holds node_modules.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { extname, join, normalize, resolve } from "node:path";

const [packages, chromium, folder, page, picture] = process.argv.slice(2);
const { chromium: browsers } = createRequire(resolve(packages, "package.json"))("playwright-core");
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm" };

const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
  const root = path.startsWith("/node_modules/") ? packages : folder;
  try {
    const body = await readFile(join(root, path));
    response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" }).end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const browser = await browsers.launch({ executablePath: chromium, args: ["--no-sandbox"] });
try {
  const tab = await browser.newPage();
  tab.on("console", (message) => console.error(message.text()));
  tab.on("pageerror", (error) => console.error(error));
  await tab.goto(`http://127.0.0.1:${server.address().port}/${page}`);
  await tab.waitForFunction(() => window.result !== undefined, null, { timeout: 60_000 });
  if (picture) await tab.screenshot({ path: picture, fullPage: true });
  process.stdout.write(await tab.evaluate(() => window.result));
} finally {
  await browser.close();
  server.close();
}
