// What a browser runs: the common cases, and what is at home there alone: EventSource, streams with a token as the README
// shows them, and pages of other origins.
import { follow as followed } from "readme:follow.js";
import { cases, check, run } from "./suite.js";

const asked = new URLSearchParams(location.search);
const base = asked.get("gateway");
const token = async () => asked.get("token");

/** The events of a stream until `enough` of them says so. */
function follow(query, enough) {
  return new Promise((done, failed) => {
    const seen = { ids: [], errors: [], opened: 0, ended: false };
    const source = new EventSource(`${base}/test/v1/follow?${query}`);
    const look = async () => {
      if (!(await enough(seen))) return;
      source.close();
      done(seen);
    };
    source.onopen = () => seen.opened++;
    source.onmessage = (event) => {
      const { number } = JSON.parse(event.data);
      if (number !== event.lastEventId) failed(new Error(`${number} has the id ${event.lastEventId}`));
      seen.ids.push(Number(number));
      look();
    };
    source.onerror = (event) => {
      if (event.data !== undefined) seen.errors.push(JSON.parse(event.data).reason);
      else if (source.readyState === EventSource.CLOSED) failed(new Error("EventSource gave up"));
      look();
    };
    source.addEventListener("end", () => {
      seen.ended = true;
      look();
    });
  });
}

const events = {
  "EventSource: a stream to its end": async () => {
    const seen = await follow("until=3", (seen) => seen.ended);
    check(seen.ids.join() === "1,2,3" && seen.opened === 1 && seen.errors.length === 0, JSON.stringify(seen));
  },
  "EventSource: opens before the first message": async () => {
    const seen = await follow("until=1&pause_millis=4000", (seen) => seen.ids.length > 0);
    check(seen.opened === 1, JSON.stringify(seen));
  },
  "EventSource: a late error": async () => {
    const seen = await follow("until=2&then=out-of-stock", (seen) => seen.errors.length > 0);
    check(seen.ids.join() === "1,2" && seen.errors.join() === "OUT_OF_STOCK", JSON.stringify(seen));
  },
  "EventSource: resumes after the service is restarted": async () => {
    let restarted = null;
    const seen = await follow("until=1000000&pause_millis=50", async (seen) => {
      if (seen.ids.length === 5) {
        restarted ??= fetch("/restart", { method: "POST" });
      }
      return restarted && (await restarted).ok && seen.opened > 1 && seen.ids.length > 20;
    });
    const gaps = seen.ids.filter((id, index) => id !== index + 1);
    check(gaps.length === 0, `a gap, or one twice: ${seen.ids}`);
    check(seen.errors.every((reason) => reason === "SERVICE_UNAVAILABLE"), seen.errors.join());
  },
};

const withToken = {
  "follow.js: a stream to its end": async () => {
    const numbers = [];
    for await (const tick of followed(`${base}/test/v1/follow?until=3&pause_millis=20`, token)) numbers.push(tick.number);
    check(numbers.join() === "1,2,3", numbers.join());
  },
  "follow.js: the token is sent": async () => {
    const stream = followed(`${base}/test/v1/follow?until=3`, async () => "nonsense");
    const problem = await stream.next().then(() => null, (problem) => problem);
    check(problem?.reason === "TOKEN_INVALID", JSON.stringify(problem));
  },
  "follow.js: a late error": async () => {
    const stream = followed(`${base}/test/v1/follow?until=2&then=out-of-stock`, token);
    let problem = null;
    try {
      for await (const _ of stream);
    } catch (caught) {
      problem = caught;
    }
    check(problem?.reason === "OUT_OF_STOCK", JSON.stringify(problem));
  },
  "follow.js: goes on after the service is restarted, and leaves when it is told to": async () => {
    const numbers = [];
    let restarted = null;
    for await (const { number } of followed(`${base}/test/v1/follow?until=1000000&pause_millis=50`, token)) {
      numbers.push(Number(number));
      if (numbers.length === 5) restarted = fetch("/restart", { method: "POST" }).then(() => numbers.length);
      if (numbers.length > 5 && restarted && numbers.length > (await restarted) + 10) break;
    }
    check(numbers.every((number, index) => number === index + 1), `a gap, or one twice: ${numbers}`);
  },
};

/** Whether a page of this origin may read what the gateway answers; `null`: one in a sandbox, which has none. */
function mayRead(origin) {
  return new Promise((done) => {
    const frame = document.createElement("iframe");
    if (origin === null) frame.sandbox = "allow-scripts";
    frame.src = `${origin ?? location.origin}/frame`;
    addEventListener("message", function told({ source, data }) {
      if (source !== frame.contentWindow) return;
      removeEventListener("message", told);
      frame.remove();
      done(data);
    });
    document.body.append(frame);
  });
}

const origins = {
  "pages of this machine may call": async () => {
    for (const name of ["127.0.0.1", "localhost"]) check(await mayRead(`http://${name}:${location.port}`), name);
  },
  "other pages may not": async () => {
    check(!(await mayRead(null)), "a page without an origin");
    check(!(await mayRead(`http://shop.example:${location.port}`)), "a page from elsewhere");
  },
};

const descriptors = new Uint8Array(await (await fetch("/descriptors")).arrayBuffer());
const result = await run({ ...cases(base, descriptors), ...events, ...withToken, ...origins });
await fetch("/result", { method: "POST", body: JSON.stringify(result) });
