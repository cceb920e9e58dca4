// What orval makes of the document: one file of functions that call fetch.
export default {
  souk: {
    input: "./openapi.json",
    output: { target: "./clients/orval/souk.ts", client: "fetch", baseUrl: { runtime: "process.env.SOUK_URL" } },
  },
};
