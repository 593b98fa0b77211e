// PostGraphile 4 as a library in Node's own HTTP server, with what its documentation advises for production; two processes
// by node:cluster, as every server here has two. (Version 5 asks for Node 22, and does not answer on Node 20.)
//
// The agency is bound by pgSettings, which PostGraphile sets for the transaction of each request; row-level security does
// the rest, and the query names the agency as well, so that it walks the same index as everybody else's. Tokens are
// verified by jsonwebtoken, which PostGraphile itself uses.

import cluster from "node:cluster";
import { createPublicKey } from "node:crypto";
import { createServer } from "node:http";

import jsonwebtoken from "jsonwebtoken";
import pg from "pg";
import { postgraphile } from "postgraphile";

const environment = process.env;

function agencyOf(request) {
  const [scheme, token] = (request.headers.authorization ?? "").split(" ");
  if (scheme !== "Bearer") throw Object.assign(new Error("no token"), { status: 401 });
  const claims = jsonwebtoken.verify(token, publicKey, {
    algorithms: ["RS256"],
    audience: environment.JWT_AUDIENCE,
    issuer: environment.JWT_ISSUER,
  });
  return claims.agency_id;
}

// A finished key: the PEM would be parsed again for every request.
const publicKey = createPublicKey(environment.JWT_PUBLIC_KEY);

const options = {
  pgSettings: async (request) => ({ "app.agency_id": agencyOf(request) }),
  // For production, by its documentation: no query log, no GraphiQL, no watching of the schema, no subscriptions.
  disableQueryLog: true,
  graphiql: false,
  watchPg: false,
  subscriptions: false,
  // Less to build and to look at: only reading is measured.
  disableDefaultMutations: true,
  // JSON columns as JSON, as the others give them.
  dynamicJson: true,
};

if (cluster.isPrimary) {
  for (let n = 0; n < Number(environment.PEER_PROCESSES); n++) cluster.fork();
  process.on("SIGTERM", () => {
    for (const worker of Object.values(cluster.workers)) worker.kill();
    process.exit(0);
  });
} else {
  // As many connections as each process of ours keeps, as many at rest as at work.
  const size = Number(environment.PEER_POOL_SIZE);
  const pool = new pg.Pool({ connectionString: environment.PEER_DSN, max: size, min: size, idleTimeoutMillis: 0 });
  const server = createServer(postgraphile(pool, "public", options));
  server.keepAliveTimeout = 75_000;
  server.listen(Number(environment.PORT), "127.0.0.1");
}
