// Runs the clients on Node, then in headless Chromium: `node run.js GATEWAY DESCRIPTORS TOKEN`, the URL of a gateway, a file
// with the encoded descriptor set, and a customer's token. Prints `restart` where the service behind is to be restarted, and waits for a line on
// standard input. Ends with 0 where everything is as it must be.
import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { Agent, createServer, request as send } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { build } from "esbuild";
import XMLHttpRequest from "xhr2";

const BROWSER_SECONDS = 120;
const [gateway, file, token] = process.argv.slice(2);
const descriptors = await readFile(file);

// grpc-web is made for browsers; on Node it says to bring this.
globalThis.XMLHttpRequest = XMLHttpRequest;
const { cases, check, run } = await import("./suite.js");

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

/** The agent that most of Node's HTTP clients use: one connection, refusals and large bodies one after the other. */
const onOneConnection = {
  "node:http: a connection outlives the requests that are refused on it": async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    const sockets = new Set();
    const post = (size) =>
      new Promise((done, failed) => {
        const request = send(`${gateway}/nowhere`, { agent, method: "POST", headers: { "content-length": size } });
        request.on("response", (response) => response.resume().on("end", () => done(response.statusCode)));
        request.on("socket", (socket) => sockets.add(socket)).on("error", failed).end(Buffer.alloc(size));
      });
    for (let number = 0; number < 100; number++) check((await post(number % 2 ? 100_000 : 200)) === 404, "status");
    check(sockets.size === 1, `${sockets.size} connections`);
    agent.destroy();
  },
};

/** What the gateway's README shows under this name, so that it is what was tried. */
const shown = {
  name: "readme",
  setup(build) {
    build.onResolve({ filter: /^readme:/ }, ({ path }) => ({ path, namespace: "readme" }));
    build.onLoad({ filter: /.*/, namespace: "readme" }, async ({ path }) => {
      const text = await readFile(new URL("../../README.md", import.meta.url), "utf8");
      const block = text.split("```js\n").find((part) => part.startsWith(`// ${path.slice("readme:".length)}`));
      return { contents: block.split("```")[0] };
    });
  },
};

/** Runs page.js in Chromium, which sends its result here. */
async function browser() {
  const bundle = await build({
    entryPoints: [new URL("page.js", import.meta.url).pathname],
    bundle: true, format: "esm", write: false, logLevel: "error", plugins: [shown],
  });
  const script = bundle.outputFiles[0].contents;
  const html = '<!doctype html><meta charset="utf-8"><script type="module" src="/page.js"></script>';
  // A page in a frame, of whatever origin, that says whether it could read an answer.
  const frame = `<!doctype html><meta charset="utf-8"><script>
    fetch(${JSON.stringify(`${gateway}/test/v1/things/1`)}, { headers: { "x-request-id": "frame" } })
      .then((answer) => answer.json()).then(() => true, () => false).then((read) => parent.postMessage(read, "*"));
  </script>`;
  let finish;
  const finished = new Promise((done) => (finish = done));
  const read = async (request) => Buffer.concat(await request.toArray()).toString();
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, "http://page").pathname;
    const send = (type, body) => response.writeHead(200, { "content-type": type }).end(body);
    if (path === "/") return send("text/html", html);
    if (path === "/frame") return send("text/html", frame);
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
  const query = new URLSearchParams({ gateway, token });
  const url = `http://127.0.0.1:${server.address().port}/?${query}`;
  const profile = await mkdtemp(join(tmpdir(), "souk-chromium-"));
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"];
  // A page from elsewhere.
  flags.push("--host-resolver-rules=MAP shop.example 127.0.0.1");
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

const onNode = report("Node", await run({ ...cases(gateway, new Uint8Array(descriptors)), ...onOneConnection }));
const inChromium = report("Chromium", await browser());
process.exit(onNode && inChromium ? 0 : 1);
