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

const find = <T extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as T;
// Two places, so that the next read, a second later, does not wipe away why an answer was refused.
const tell = (place: "problem" | "refusal", error?: { detail: string; request_id: string }) => {
  find(place).hidden = !error;
  find(place).textContent = error ? `${error.detail} (${error.request_id})` : "";
};

let cursor: string | null = null; // of the next page of the inbox
let open: Conversation | undefined;
let thread: Message[] = []; // newest first, as the API gives it
let before: string | null = null; // the oldest message that is shown, if there are older ones
let key = crypto.randomUUID(); // names the answer as it is written, so that sending it again does not send it twice

async function listInbox() {
  const { data, error } = await api.GET("/conversations", { params: { query: cursor ? { cursor } : {} } });
  tell("problem", error);
  if (!data) return;
  for (const conversation of data.conversations) {
    const button = document.createElement("button");
    button.textContent = conversation.contact_name ?? conversation.contact_phone;
    button.append(Object.assign(document.createElement("small"), { textContent: conversation.last_message_preview }));
    button.onclick = () => openConversation(conversation, button);
    find("inbox").appendChild(document.createElement("li")).append(button);
  }
  cursor = data.next_cursor;
  find("more").hidden = cursor === null;
}

async function openConversation(conversation: Conversation, button: HTMLButtonElement) {
  document.querySelector("[aria-current]")?.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  [open, thread, before] = [conversation, [], null];
  find("contact").textContent = `${conversation.contact_phone} (${conversation.channel})`;
  find("conversation").hidden = false;
  tell("refusal");
  await readThread();
}

// The newest page, or with `older` the one before the oldest message that is shown.
async function readThread(older?: string) {
  const conversation = open!;
  const params = { path: { conversation_id: conversation.id }, query: older ? { before: older } : {} };
  const { data, error } = await api.GET("/conversations/{conversation_id}/messages", { params });
  if (conversation !== open) return; // another one was opened meanwhile
  tell("problem", error);
  if (!data) return;
  if (older || thread.length === 0) before = data.next_before;
  const read = new Set(data.messages.map((message) => message.id));
  const kept = thread.filter((message) => !read.has(message.id));
  thread = older ? [...kept, ...data.messages] : [...data.messages, ...kept];
  find("older").hidden = before === null;
  find("thread").replaceChildren(...thread.map(show).reverse());
}

function show(message: Message): HTMLElement {
  const item = Object.assign(document.createElement("li"), { className: message.direction, textContent: message.content });
  const told = `${new Date(message.sent_at).toLocaleString()} · ${message.error?.message ?? message.status}`;
  item.append(Object.assign(document.createElement("small"), { textContent: told }));
  return item;
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
