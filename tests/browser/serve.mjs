// Serves a folder and the npm packages on loopback, and launches Chromium.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { extname, join, normalize, resolve } from "node:path";

const TYPES = {
  ".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm",
};

/** The address of a folder that is served, and what ends that; PACKAGES holds node_modules. */
export async function serve(packages, folder) {
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
    const root = path.startsWith("/node_modules/") ? packages : folder;
    let body;
    try {
      body = await readFile(join(root, path));
    } catch {
      return response.writeHead(404).end();
    }
    response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" }).end(body);
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** Chromium; WebGPU is done in software where there is no graphics card. */
export function launch(packages, chromium) {
  const { chromium: browsers } = createRequire(resolve(packages, "package.json"))("playwright-core");
  return browsers.launch({ executablePath: chromium, args: ["--no-sandbox", "--enable-unsafe-webgpu"] });
}
