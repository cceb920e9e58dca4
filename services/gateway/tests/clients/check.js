// How cases are checked and run, whatever the client.

export function check(condition, text) {
  if (!condition) throw new Error(text);
}

/** Runs cases one after the other. Hands back what failed. */
export async function run(cases) {
  const failures = [];
  for (const [name, work] of Object.entries(cases)) {
    let timer;
    const late = new Promise((_, failed) => (timer = setTimeout(() => failed(new Error("too slow")), 20_000)));
    try {
      await Promise.race([work(), late]);
    } catch (error) {
      failures.push(`${name}: ${error?.stack ?? error}`);
    } finally {
      clearTimeout(timer);
    }
  }
  return { count: Object.keys(cases).length, failures };
}
