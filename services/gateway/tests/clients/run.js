// Runs the clients on Node, then in headless Chromium: `node run.js GATEWAY DESCRIPTORS`, the URL of a gateway and a file
// with the encoded descriptor set. Prints `restart` where the service behind is to be restarted, and waits for a line on
// standard input. Ends with 0 where everything is as it must be.
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { build } from "esbuild";
import XMLHttpRequest from "xhr2";

const BROWSER_SECONDS = 120;
const [gateway, file] = process.argv.slice(2);
const descriptors = await readFile(file);

// grpc-web is made for browsers; on Node it says to bring this.
globalThis.XMLHttpRequest = XMLHttpRequest;
const { cases, run } = await import("./suite.js");

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const restart = async () => {
  console.log("restart");
  await answers.next();
};

function report(where, { count, failures }) {
  console.log(`${where}: ${count - failures.length} of ${count} cases passed`);
  for (const failure of failures) console.log(`  ${failure}`);
  return failures.length === 0 && count > 0;
}

/** Runs page.js in Chromium, which sends its result here. */
async function browser() {
  const bundle = await build({
    entryPoints: [new URL("page.js", import.meta.url).pathname],
    bundle: true, format: "esm", write: false, logLevel: "error",
  });
  const script = bundle.outputFiles[0].contents;
  const html = '<!doctype html><meta charset="utf-8"><script type="module" src="/page.js"></script>';
  let finish;
  const finished = new Promise((done) => (finish = done));
  const read = async (request) => Buffer.concat(await request.toArray()).toString();
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://page").pathname;
    const send = (type, body) => response.writeHead(200, { "content-type": type }).end(body);
    if (path === "/") return send("text/html", html);
    if (path === "/page.js") return send("text/javascript", script);
    if (path === "/descriptors") return send("application/octet-stream", descriptors);
    if (path === "/restart") return restart().then(() => send("text/plain", "done"));
    if (path === "/result") {
      finish(JSON.parse(await read(request)));
      return send("text/plain", "thanks");
    }
    response.writeHead(404).end();
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  const url = `http://127.0.0.1:${server.address().port}/?gateway=${encodeURIComponent(gateway)}`;
  const profile = await mkdtemp(join(tmpdir(), "souk-chromium-"));
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
  const chromium = spawn(process.env.CHROMIUM ?? "chromium", [...flags, `--user-data-dir=${profile}`, url], {
    stdio: ["ignore", "ignore", "pipe"],
    detached: true,
  });
  let said = "";
  chromium.stderr.on("data", (text) => (said = (said + text).slice(-4000)));
  const gone = new Promise((_, failed) => {
    chromium.on("error", (error) => failed(new Error(`Chromium does not start (${error.message})`)));
    chromium.on("exit", (code) => failed(new Error(`Chromium ended with ${code}: ${said}`)));
    setTimeout(() => failed(new Error(`no result from Chromium in ${BROWSER_SECONDS} s: ${said}`)), BROWSER_SECONDS * 1000).unref();
  });
  try {
    return await Promise.race([finished, gone]);
  } finally {
    gone.catch(() => {});
    const ended = new Promise((exited) => chromium.on("exit", exited).on("error", exited));
    // Its helpers are in its process group.
    if (chromium.pid) process.kill(-chromium.pid, "SIGKILL"), await ended;
    server.closeAllConnections();
    server.close();
    await rm(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

const onNode = report("Node", await run(cases(gateway, new Uint8Array(descriptors))));
const inChromium = report("Chromium", await browser());
process.exit(onNode && inChromium ? 0 : 1);
