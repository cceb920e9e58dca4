// What a browser runs: the common cases, and EventSource, which is at home there alone.
import { cases, check, run } from "./suite.js";

const base = new URLSearchParams(location.search).get("gateway");

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

const descriptors = new Uint8Array(await (await fetch("/descriptors")).arrayBuffer());
const result = await run({ ...cases(base, descriptors), ...events });
await fetch("/result", { method: "POST", body: JSON.stringify(result) });
