// An inbox in one page: list the conversations, open one, turn back to its first message, answer, see it delivered.
// The API's address and a token come in the page's own: http://localhost:5173/#api=...&token=...
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

type Conversation = components["schemas"]["Conversation"];
type Message = components["schemas"]["Message"];

const given = new URLSearchParams(location.hash.slice(1)); // what follows # is sent to no server
const api = createClient<paths>({
  baseUrl: given.get("api") ?? "http://127.0.0.1:8080/api/v1",
  headers: { Authorization: `Bearer ${given.get("token")}` },
});

api.use({
  // A fetch that fails tells a page nothing more, so that it cannot tell an API that is away from one that refuses it.
  onError: () =>
    Response.json({ detail: "The API cannot be reached from this page (CORS_ALLOWED_ORIGINS?)." }, { status: 503 }),
});

const make = <K extends keyof HTMLElementTagNameMap>(tag: K, properties: Partial<HTMLElementTagNameMap[K]>) =>
  Object.assign(document.createElement(tag), properties);
const find = <T extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as T;
// Two places, so that the next read, a second later, does not wipe away why an answer was refused.
const tell = (place: "problem" | "refusal", error?: { detail: string; request_id?: string }) => {
  find(place).hidden = !error;
  find(place).textContent = error ? error.detail + (error.request_id ? ` (${error.request_id})` : "") : "";
};
const BLOCKED: Record<NonNullable<Conversation["messaging"]["blocked_reason"]>, string> = {
  contact_opted_out: "The contact wrote STOP: nothing can be sent.",
  whatsapp_window_closed: "The contact has not written for 24 hours: WhatsApp takes only a template, and this page has none.",
};

let cursor: string | null = null; // of the next page of the inbox
let open: Conversation | undefined;
let thread: Message[] = []; // newest first, as the API gives it
let before: string | null = null; // the oldest message that is shown, if there are older ones
let shown = ""; // the thread as it stands in the page, so that only what is new is drawn
let key = crypto.randomUUID(); // names the answer as it is written, so that sending it again does not send it twice

async function listInbox() {
  const { data, error } = await api.GET("/conversations", { params: { query: cursor ? { cursor } : {} } });
  tell("problem", error);
  if (!data) return;
  for (const conversation of data.conversations) {
    const button = make("button", { textContent: conversation.contact_name ?? conversation.contact_phone });
    button.append(make("small", { textContent: conversation.last_message_preview }));
    button.onclick = () => openConversation(conversation, button);
    find("inbox").appendChild(document.createElement("li")).append(button);
  }
  cursor = data.next_cursor;
  find("more").hidden = cursor === null;
}

async function openConversation(conversation: Conversation, button: HTMLButtonElement) {
  document.querySelector("[aria-current]")?.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  [open, thread, before, shown] = [conversation, [], null, ""];
  find("thread").replaceChildren();
  find("contact").textContent = `${conversation.contact_phone} (${conversation.channel})`;
  find("conversation").hidden = false;
  tell("refusal");
  allow(conversation);
  await readThread();
}

// Whether an answer can be sent now is known before it is written.
function allow({ messaging }: Conversation) {
  find<HTMLFieldSetElement>("writing").disabled = !messaging.can_send_freeform;
  find("blocked").textContent = messaging.blocked_reason && BLOCKED[messaging.blocked_reason];
}

// The newest page, or with `older` the one before the oldest message that is shown.
async function readThread(older?: string) {
  const conversation = open!;
  const params = { path: { conversation_id: conversation.id }, query: older ? { before: older } : {} };
  const [{ data, error }, now] = await Promise.all([
    api.GET("/conversations/{conversation_id}/messages", { params }),
    api.GET("/conversations/{conversation_id}", { params: { path: params.path } }),
  ]);
  if (conversation !== open) return; // another one was opened meanwhile
  tell("problem", error);
  if (!data) return;
  if (now.data) allow(now.data);
  if (older || thread.length === 0) before = data.next_before;
  const read = new Set(data.messages.map((message) => message.id));
  const kept = thread.filter((message) => !read.has(message.id));
  thread = older ? [...kept, ...data.messages] : [...data.messages, ...kept];
  find("older").hidden = before === null;
  const drawn = JSON.stringify(thread);
  if (drawn === shown) return;
  shown = drawn;
  find("thread").replaceChildren(...thread.map(show).reverse());
}

function show(message: Message): HTMLElement {
  const item = make("li", { className: message.direction, textContent: message.content });
  if (message.redacted_at) item.append(make("em", { textContent: "Deleted at the contact's request." }));
  if (message.template) {
    const { content_sid, variables } = message.template;
    item.append(make("em", { textContent: [`Template ${content_sid}`, ...Object.values(variables)].join(" · ") }));
  }
  for (const { url, content_type } of message.media) {
    const textContent = `Attachment: ${content_type ?? "of an unknown type"}`;
    const link = make("a", { textContent, target: "_blank", rel: "noreferrer" });
    if (/^https?:/.test(url)) link.href = url; // a page that puts what it was sent into links makes sure what they are
    item.append(link);
  }
  if (message.transcript) item.append(make("em", { textContent: message.transcript }));
  const told = `${new Date(message.sent_at).toLocaleString()} · ${message.error?.message ?? message.status}`;
  item.append(make("small", { textContent: told }));
  if (message.status === "unconfirmed" && !message.redacted_at)
    item.append(make("button", { textContent: "Send again (it may arrive twice)", onclick: () => resend(message) }));
  return item;
}

async function resend(message: Message) {
  const { error } = await api.POST("/messages/{message_id}/resend", { params: { path: { message_id: message.id } } });
  tell("refusal", error);
  await readThread();
}

find<HTMLFormElement>("answer").onsubmit = async (event) => {
  event.preventDefault();
  const input = find<HTMLFormElement>("answer").elements.namedItem("content") as HTMLInputElement;
  const { data, error } = await api.POST("/conversations/{conversation_id}/messages", {
    params: { path: { conversation_id: open!.id }, header: { "Idempotency-Key": key } },
    body: { content: input.value },
  });
  tell("refusal", error);
  if (!data) return; // the text stays, and its key
  [key, input.value] = [crypto.randomUUID(), ""];
  await readThread();
};
find("answer").oninput = () => (key = crypto.randomUUID());
find("more").onclick = listInbox;
find("older").onclick = () => readThread(before!);
setInterval(() => open && readThread(), 1000); // what became of the answers, and what is new
listInbox();
