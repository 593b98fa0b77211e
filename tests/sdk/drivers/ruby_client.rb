# A program's session with the Ruby client that openapi-generator makes: what it saw, as JSON.
require 'json'
require 'uri'
require 'faro_conversations_client'

GIVEN = JSON.parse(ENV.fetch('SESSION'))
include FaroConversationsClient

# A mock has no memory: it is told which of the documented answers to give. It also believes `Accept`, which the service
# does not look at, and in which this client asks for the first type only.
def prefer(wish)
  GIVEN['mocked'] ? { 'Prefer' => wish, 'Accept' => 'application/json, application/problem+json' } : {}
end

def client(who)
  url = URI(GIVEN['url'])
  configuration = Configuration.new
  configuration.scheme = url.scheme
  configuration.host = "#{url.host}:#{url.port}"
  configuration.base_path = url.path
  configuration.server_index = nil
  configuration.access_token = GIVEN[who]
  ApiClient.new(configuration)
end

def refusal
  yield
  raise 'it was not refused'
rescue ApiError => e
  problem = Problem.build_from_hash(JSON.parse(e.response_body))
  raise 'not a valid problem' unless problem.valid?

  [e.code, problem.code]
end

CONVERSATIONS = ConversationsApi.new(client('staff'))
MESSAGES = MessagesApi.new(client('staff'))
CONVERSATION = GIVEN['conversation']

def deliver(messages, content, wish = 'code=201')
  request = SendMessageRequest.new(content: content)
  messages.send_message_with_http_info(CONVERSATION, request, idempotency_key: GIVEN['key'], header_params: prefer(wish))
end

inbox = []
total = 0
cursor = nil
loop do
  options = { limit: 2, header_params: prefer(cursor ? 'example=nothing_found' : 'example=first_page') }
  options[:cursor] = cursor if cursor
  page = CONVERSATIONS.list_conversations(options)
  inbox.concat(page.conversations.map(&:id))
  total = [total, page.total].max
  cursor = page.next_cursor
  break if cursor.nil?
end

conversation = CONVERSATIONS.get_conversation(CONVERSATION)

thread = []
before = nil
loop do
  options = { limit: 2, header_params: prefer(before ? 'example=last_page' : 'example=newest') }
  options[:before] = before if before
  page = MESSAGES.list_messages(CONVERSATION, options)
  thread.concat(page.messages.map(&:content))
  before = page.next_before
  break if before.nil?
end

sent, _, sent_headers = deliver(MESSAGES, 'From Ruby')
again, _, again_headers = deliver(MESSAGES, 'From Ruby')
message = MESSAGES.get_message(sent.id)
named = CONVERSATIONS.list_conversations(x_tenant_id: GIVEN['agency'], tenant_id: GIVEN['agency'])

puts JSON.generate(
  inbox: inbox,
  total: total,
  thread: thread,
  contact: conversation.contact_phone,
  channel: conversation.channel,
  last_message_at: (conversation.last_message_at.to_time.to_r * 1000).to_i,
  sent: sent.id,
  status: sent.status,
  again: again.id,
  replayed: [sent_headers, again_headers].map { |headers| headers['Idempotent-Replayed'] || headers['idempotent-replayed'] },
  read_back: message.id,
  history: message.history.length,
  named: !named.conversations.empty?,
  codes: [
    refusal { CONVERSATIONS.get_conversation(GIVEN['missing'], header_params: prefer('code=404')) },
    refusal { deliver(MessagesApi.new(client('viewer')), 'No', 'code=403, example=role_forbidden') },
    refusal { deliver(MESSAGES, 'Something else', 'code=422, example=idempotency_key_reused') }
  ]
)
