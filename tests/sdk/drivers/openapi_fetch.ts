// A front end's session with the client that openapi-typescript and openapi-fetch make: what it saw, as JSON.
import createClient from "openapi-fetch";
import type { components, paths } from "../typescript/schema";

type Status = components["schemas"]["MessageStatus"];
const given = JSON.parse(process.env.SESSION!) as Record<"url" | "staff" | "viewer" | "agency" | "conversation" | "missing" | "key", string> & { mocked: boolean };

// A mock has no memory: it is told which of the documented answers to give.
const prefer = (wish: string): Record<string, string> => (given.mocked ? { Prefer: wish } : {});
const as = (token: string) => createClient<paths>({ baseUrl: given.url, headers: { Authorization: `Bearer ${token}` } });
// Every status has its words: a value that the contract adds or removes does not compile.
const words: Record<Status, string> = {
  received: "", queued: "waiting", sending: "on its way", sent: "sent", delivered: "delivered", read: "read",
  failed: "not sent", undelivered: "did not arrive", unconfirmed: "unclear", canceled: "withdrawn",
};

async function session() {
  const staff = as(given.staff);
  const inbox: string[] = [];
  let total = 0;
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const { data } = await staff.GET("/conversations", {
      params: { query: { limit: 2, ...(cursor ? { cursor } : {}) } },
      headers: prefer(cursor ? "example=nothing_found" : "example=first_page"),
    });
    inbox.push(...data!.conversations.map((each) => each.id));
    total = Math.max(total, data!.total);
    cursor = data!.next_cursor;
  }
  const path = { conversation_id: given.conversation };
  const { data: conversation } = await staff.GET("/conversations/{conversation_id}", { params: { path } });
  const thread: string[] = [];
  for (let before: string | null | undefined; before !== null; ) {
    const { data } = await staff.GET("/conversations/{conversation_id}/messages", {
      params: { path, query: { limit: 2, ...(before ? { before } : {}) } },
      headers: prefer(before ? "example=last_page" : "example=newest"),
    });
    thread.push(...data!.messages.map((each) => each.content));
    before = data!.next_before;
  }
  const send = (client: typeof staff, content: string, wish = "code=201") =>
    client.POST("/conversations/{conversation_id}/messages", {
      params: { path, header: { "Idempotency-Key": given.key } },
      body: { content },
      headers: prefer(wish),
    });
  const sent = await send(staff, "From TypeScript");
  const again = await send(staff, "From TypeScript");
  const { data: message } = await staff.GET("/messages/{message_id}", { params: { path: { message_id: sent.data!.id } } });
  const tenant = { header: { "X-Tenant-ID": given.agency }, query: { tenant_id: given.agency } };
  const named = await staff.GET("/conversations", { params: tenant });
  const missing = { path: { conversation_id: given.missing } };
  const lost = await staff.GET("/conversations/{conversation_id}", { params: missing, headers: prefer("code=404") });
  const forbidden = await send(as(given.viewer), "No", "code=403, example=role_forbidden");
  const reused = await send(staff, "Something else", "code=422, example=idempotency_key_reused");
  return {
    inbox, total, thread,
    contact: conversation!.contact_phone,
    channel: conversation!.channel,
    last_message_at: new Date(conversation!.last_message_at).getTime(),
    sent: sent.data!.id, status: sent.data!.status, words: words[sent.data!.status], again: again.data!.id,
    replayed: [sent, again].map((each) => each.response.headers.get("Idempotent-Replayed")),
    read_back: message!.id, history: message!.history.length, named: named.data!.conversations.length > 0,
    codes: [lost, forbidden, reused].map((each) => [each.response.status, each.error!.code]),
  };
}

session().then((seen) => console.log(JSON.stringify(seen)));
