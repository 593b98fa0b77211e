// A front end's session with the TypeScript client that openapi-generator makes: what it saw, as JSON.
import { Configuration, ConversationsApi, MessagesApi, ProblemCode, ResponseError } from "../typescript-fetch/src/index";
import type { Problem } from "../typescript-fetch/src/index";

const given = JSON.parse(process.env.SESSION!) as Record<"url" | "staff" | "viewer" | "agency" | "conversation" | "missing" | "key", string> & { mocked: boolean };

// A mock has no memory: it is told which of the documented answers to give.
const prefer = (wish: string) => async ({ init }: { init: RequestInit }): Promise<RequestInit> =>
  given.mocked ? { headers: { ...(init.headers as Record<string, string>), Prefer: wish } } : {};
const as = (accessToken: string) => new Configuration({ basePath: given.url, accessToken });

async function refusal(call: Promise<unknown>): Promise<[number, ProblemCode]> {
  try {
    await call;
  } catch (error) {
    if (error instanceof ResponseError) {
      const problem = (await error.response.json()) as Problem;
      if (!Object.values(ProblemCode).includes(problem.code)) throw new Error(`not a code of this client: ${problem.code}`);
      return [error.response.status, problem.code];
    }
    throw error;
  }
  throw new Error("it was not refused");
}

async function session() {
  const conversations = new ConversationsApi(as(given.staff));
  const messages = new MessagesApi(as(given.staff));
  const inbox: string[] = [];
  let total = 0;
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const wish = prefer(cursor ? "example=nothing_found" : "example=first_page");
    const page = await conversations.listConversations({ limit: 2, ...(cursor ? { cursor } : {}) }, wish);
    inbox.push(...page.conversations.map((each) => each.id));
    total = Math.max(total, page.total);
    cursor = page.nextCursor;
  }
  const conversationId = given.conversation;
  const conversation = await conversations.getConversation({ conversationId });
  const thread: string[] = [];
  for (let before: string | null | undefined; before !== null; ) {
    const wish = prefer(before ? "example=last_page" : "example=newest");
    const page = await messages.listMessages({ conversationId, limit: 2, ...(before ? { before } : {}) }, wish);
    thread.push(...page.messages.map((each) => each.content));
    before = page.nextBefore;
  }
  const send = (api: MessagesApi, content: string, wish = "code=201") =>
    api.sendMessageRaw({ conversationId, idempotencyKey: given.key, sendMessageRequest: { content } }, prefer(wish));
  const sent = await send(messages, "From TypeScript");
  const again = await send(messages, "From TypeScript");
  const record = await sent.value();
  const message = await messages.getMessage({ messageId: record.id });
  const named = await conversations.listConversations({ xTenantID: given.agency, tenantId: given.agency });
  return {
    inbox, total, thread,
    contact: conversation.contactPhone,
    channel: conversation.channel,
    last_message_at: conversation.lastMessageAt.getTime(),
    sent: record.id, status: record.status, again: (await again.value()).id,
    replayed: [sent, again].map((each) => each.raw.headers.get("Idempotent-Replayed")),
    read_back: message.id, history: message.history.length, named: named.conversations.length > 0,
    codes: [
      await refusal(conversations.getConversation({ conversationId: given.missing }, prefer("code=404"))),
      await refusal(send(new MessagesApi(as(given.viewer)), "No", "code=403, example=role_forbidden")),
      await refusal(send(messages, "Something else", "code=422, example=idempotency_key_reused")),
    ],
  };
}

session().then((seen) => console.log(JSON.stringify(seen)));
