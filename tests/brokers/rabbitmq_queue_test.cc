// Plain queues on a real RabbitMQ. One broker for all cases, and queues of its own for each.
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "bus/rabbitmq/queue.h"
#include "bus/rabbitmq/rabbitmq_transport.h"
#include "tests/support/broker.h"
#include "tests/support/test_support.h"

namespace leat::bus {
namespace {

using std::chrono::milliseconds;
using test::ClassOf;
using test::Must;

constexpr int kPort = 20072;  // and two behind it
constexpr auto kPatience = std::chrono::seconds(60);
constexpr auto kNothing = milliseconds(200);  // long enough to see that nothing comes

test::Broker& TheBroker() {
  static test::Broker broker("rabbitmq", kPort);
  return broker;
}

RabbitMqOptions Options() {
  RabbitMqOptions options;
  options.port = static_cast<uint16_t>(TheBroker().port());
  options.timeout = milliseconds(5000);
  return options;
}

std::unique_ptr<QueueConsumer> Consume(const QueueOptions& queue) {
  return Must(QueueConsumer::Open(Options(), queue));
}
QueueOptions Named(const std::string& name) {
  QueueOptions queue;
  queue.name = name;
  return queue;
}

Delivery Next(QueueConsumer& consumer) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < deadline) {
    auto taken = consumer.Take(milliseconds(100));
    if (taken && *taken) return std::move(**taken);
    if (!taken) {
      REQUIRE(taken.error().Retryable());
      std::this_thread::yield();
    }
  }
  FAIL("no message comes");
  return {};
}
bool Empty(QueueConsumer& consumer) { return !Must(consumer.Take(kNothing)).has_value(); }

// A client that knows nothing of CloudEvents.
class Stranger {
 public:
  Stranger() : connection_(amqp_new_connection()) {
    amqp_socket_t* const socket = amqp_tcp_socket_new(connection_);
    REQUIRE(amqp_socket_open(socket, "127.0.0.1", TheBroker().port()) == AMQP_STATUS_OK);
    constexpr int kFrameBytes = 131'072;
    REQUIRE(
        amqp_login(connection_, "/", 0, kFrameBytes, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest")
            .reply_type == AMQP_RESPONSE_NORMAL);
    amqp_channel_open(connection_, 1);
    Good();
  }
  ~Stranger() { amqp_destroy_connection(connection_); }

  void Send(const char* queue, const char* content_type, const char* body) {
    amqp_basic_properties_t properties{};
    properties._flags =
        AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG | AMQP_BASIC_REPLY_TO_FLAG;
    properties.content_type = amqp_cstring_bytes(content_type);
    properties.correlation_id = amqp_cstring_bytes("their correlation");
    properties.reply_to = amqp_cstring_bytes("their.queue");
    REQUIRE(amqp_basic_publish(connection_, 1, amqp_empty_bytes, amqp_cstring_bytes(queue), 0, 0,
                               &properties, amqp_cstring_bytes(body)) == AMQP_STATUS_OK);
  }
  struct Got {
    std::string correlation_id, reply_to, expiration, body;
    int priority = -1;
    int headers = 0;
  };
  Got Get(const char* queue) {
    const auto reply = amqp_basic_get(connection_, 1, amqp_cstring_bytes(queue), 1);
    REQUIRE(reply.reply.id == AMQP_BASIC_GET_OK_METHOD);
    amqp_message_t message;
    REQUIRE(amqp_read_message(connection_, 1, &message, 0).reply_type == AMQP_RESPONSE_NORMAL);
    const auto text = [](const amqp_bytes_t& bytes) {
      return std::string(static_cast<const char*>(bytes.bytes), bytes.len);
    };
    const auto& properties = message.properties;
    Got got{text(properties.correlation_id),
            text(properties.reply_to),
            text(properties.expiration),
            text(message.body),
            properties.priority,
            properties.headers.num_entries};
    amqp_destroy_message(&message);
    return got;
  }
  void Delete(const char* queue) {
    amqp_queue_delete(connection_, 1, amqp_cstring_bytes(queue), 0, 0);
    Good();
  }

 private:
  void Good() { REQUIRE(amqp_get_rpc_reply(connection_).reply_type == AMQP_RESPONSE_NORMAL); }
  amqp_connection_state_t connection_;
};

events::Event Event(const std::string& data) {
  test::EventParts parts;
  parts.id = "id " + data;
  parts.data = data;
  return test::MakeEvent(parts);
}

TEST_CASE("a queue that is bound by a pattern gets what is published on topics") {
  const auto transport = Must(RabbitMqTransport::Open(Options()));
  Must(transport->CreateTopic("chain.blocks", 2));
  Must(transport->CreateTopic("chain.other", 1));
  QueueOptions queue = Named("bound");
  queue.bindings = {"chain.blocks.*.#"};
  const auto consumer = Consume(queue);
  Must(transport->PublishTo("chain.other", 0, {Event("other")}));
  Must(transport->PublishTo("chain.blocks", 1, {Event("a")}));
  Must(transport->PublishTo("chain.blocks", 0, {Event("b")}));
  const Delivery first = Next(*consumer);
  test::CheckSame(first.event, Event("a").view());
  CHECK(first.routing_key == "chain.blocks.1.test.happened.v1");
  CHECK(first.problem.empty());
  CHECK_FALSE(first.redelivered);
  Must(consumer->Ack(first));
  const Delivery second = Next(*consumer);
  CHECK(second.event.data == "b");
  Must(consumer->Ack(second));
  CHECK(Empty(*consumer));
  // By a key of one's own.
  const auto producer = Must(QueueProducer::Open(Options()));
  Must(producer->Publish("chain.blocks.7.mine", Event("c")));
  CHECK(Next(*consumer).routing_key == "chain.blocks.7.mine");
  CHECK(ClassOf(producer->Publish("nobody.is.bound", Event("d"))) == ErrorClass::kNotFound);
}

TEST_CASE("a queue that is there must be the same") {
  QueueOptions queue = Named("declared");
  queue.priority_max = 5;
  queue.message_ttl = milliseconds(60'000);
  queue.dead_letter_exchange = "";
  queue.dead_letter_key = "declared.dead";
  Consume(queue);
  Consume(queue);
  const auto other = QueueConsumer::Open(Options(), Named("declared"));
  CHECK(ClassOf(other) == ErrorClass::kConflict);
  CHECK(other.error().Text().find("declared") != std::string::npos);
  CHECK_FALSE(other.error().remedy.empty());
  CHECK(ClassOf(QueueConsumer::Open(Options(), Named(""))) == ErrorClass::kInvalid);
  CHECK(ClassOf(QueueConsumer::Open(Options(), Named(std::string(256, 'x')))) ==
        ErrorClass::kInvalid);
  QueueOptions no_prefetch = Named("x");
  no_prefetch.prefetch = 0;
  CHECK(ClassOf(QueueConsumer::Open(Options(), no_prefetch)) == ErrorClass::kInvalid);
  RabbitMqOptions away = Options();
  away.port = 1;
  CHECK(ClassOf(QueueConsumer::Open(away, Named("x"))) == ErrorClass::kUnavailable);
  CHECK(ClassOf(QueueProducer::Open(away)) == ErrorClass::kUnavailable);
}

TEST_CASE("no more is delivered than may be unacknowledged") {
  QueueOptions queue = Named("prefetched");
  queue.prefetch = 2;
  const auto consumer = Consume(queue);
  const auto producer = Must(QueueProducer::Open(Options()));
  for (const char* data : {"1", "2", "3"}) Must(producer->SendTo("prefetched", Event(data)));
  const Delivery one = Next(*consumer);
  const Delivery two = Next(*consumer);
  CHECK(two.event.data == "2");
  CHECK(Empty(*consumer));
  Must(consumer->Ack(one));
  CHECK(Next(*consumer).event.data == "3");
}

TEST_CASE("what is refused comes again, or goes to the dead letters") {
  const auto dead = Consume(Named("refused.dead"));
  QueueOptions queue = Named("refused");
  queue.dead_letter_exchange = "";
  queue.dead_letter_key = "refused.dead";
  const auto consumer = Consume(queue);
  const auto producer = Must(QueueProducer::Open(Options()));
  Must(producer->SendTo("refused", Event("x")));
  const Delivery first = Next(*consumer);
  Must(consumer->Nack(first, true));
  const Delivery again = Next(*consumer);
  CHECK(again.event.data == "x");
  CHECK(again.redelivered);
  Must(consumer->Nack(again, false));
  CHECK(Empty(*consumer));
  const Delivery letter = Next(*dead);
  test::CheckSame(letter.event, Event("x").view());
  CHECK(letter.queue_died_in == "refused");
  Must(dead->Ack(letter));
  // What was acknowledged does not come again: not even to the next one.
  Must(producer->SendTo("refused", Event("y")));
  Must(consumer->Ack(Next(*consumer)));
  Must(producer->SendTo("refused", Event("z")));
  Must(consumer->Ack(Next(*consumer)));
  CHECK(Empty(*consumer));
  CHECK(Empty(*dead));
}

TEST_CASE("a message lives as long as it or its queue says") {
  const auto dead = Consume(Named("brief.dead"));
  QueueOptions queue = Named("brief");
  queue.dead_letter_exchange = "";
  queue.dead_letter_key = "brief.dead";
  QueueOptions all = Named("all-brief");
  all.dead_letter_exchange = "";
  all.dead_letter_key = "brief.dead";
  all.message_ttl = milliseconds(100);
  Consume(queue);
  Consume(all);  // declared, and nobody takes anything
  const auto producer = Must(QueueProducer::Open(Options()));
  SendOptions how;
  how.ttl = milliseconds(100);
  Must(producer->SendTo("brief", Event("of its own"), how));
  Must(producer->SendTo("brief", Event("kept")));
  Must(producer->SendTo("all-brief", Event("of the queue")));
  std::map<std::string, std::string> died;
  while (died.size() < 2) {
    const Delivery delivery = Next(*dead);
    died[std::string(delivery.event.data)] = delivery.queue_died_in;
    Must(dead->Ack(delivery));
  }
  CHECK(died["of its own"] == "brief");
  CHECK(died["of the queue"] == "all-brief");
  const auto consumer = Consume(queue);
  const Delivery kept = Next(*consumer);
  CHECK(kept.event.data == "kept");
  Must(consumer->Ack(kept));
}

TEST_CASE("the more urgent comes first") {
  QueueOptions queue = Named("urgent");
  queue.priority_max = 9;
  queue.prefetch = 1;
  Consume(queue);
  const auto producer = Must(QueueProducer::Open(Options()));
  for (const uint8_t priority : {1, 9, 5}) {
    SendOptions how;
    how.priority = priority;
    Must(producer->SendTo("urgent", Event(std::to_string(priority)), how));
  }
  const auto consumer = Consume(queue);
  for (const uint8_t priority : {9, 5, 1}) {
    const Delivery delivery = Next(*consumer);
    CHECK(delivery.priority == priority);
    CHECK(delivery.event.data == std::to_string(priority));
    Must(consumer->Ack(delivery));
  }
}

TEST_CASE("correlation and reply-to are AMQP's own") {
  Stranger stranger;
  Consume(Named("plain"));
  const auto producer = Must(QueueProducer::Open(Options()));
  events::EventView view;
  view.type = "test.asked.v1";
  view.id = "q";
  view.source = "test";
  view.correlationid = "our correlation";
  view.extensions.emplace_back("replyto", "our.queue");
  view.data = "data";
  SendOptions how;
  how.ttl = milliseconds(3'600'000);
  how.priority = 3;
  Must(producer->SendTo("plain", events::Event(view), how));
  const auto got = stranger.Get("plain");
  CHECK(got.correlation_id == "our correlation");
  CHECK(got.reply_to == "our.queue");
  CHECK(got.expiration == "3600000");
  CHECK(got.priority == 3);
  CHECK(got.headers >= 5);
  CHECK(got.body == "data");
  // The other way round, with nothing else to go by, and with bytes that are no event.
  stranger.Send("plain", "application/cloudevents+json",
                R"({"specversion":"1.0","type":"chain.block_reverted.v1","id":"1","source":"x",
                    "data":{"chain":"eip155:5"}})");
  stranger.Send("plain", "text/plain", "no event");
  const auto consumer = Consume(Named("plain"));
  const Delivery event = Next(*consumer);
  CHECK(event.problem.empty());
  CHECK(event.event.type == "chain.block_reverted.v1");
  CHECK(event.event.correlationid == "their correlation");
  REQUIRE(event.event.extensions.size() == 1);
  CHECK(event.event.extensions[0].first == "replyto");
  CHECK(event.event.extensions[0].second == "their.queue");
  const Delivery bytes = Next(*consumer);
  CHECK_FALSE(bytes.problem.empty());
  CHECK(bytes.event.data == "no event");
  Must(consumer->Ack(event));
  Must(consumer->Ack(bytes));
}

TEST_CASE("what cannot be sent is refused") {
  const auto producer = Must(QueueProducer::Open(Options()));
  const auto missing = producer->SendTo("not-there", Event("x"));
  CHECK(ClassOf(missing) == ErrorClass::kNotFound);
  CHECK(missing.error().Text().find("not-there") != std::string::npos);
  CHECK(ClassOf(producer->SendTo("", Event("x"))) == ErrorClass::kInvalid);
  CHECK(ClassOf(producer->SendTo(std::string(256, 'x'), Event("x"))) == ErrorClass::kInvalid);
  CHECK(ClassOf(producer->SendTo("x", Event(std::string(events::kDataBytesMax + 1, 'x')))) ==
        ErrorClass::kInvalid);
  // Many at a time from many threads, each with its own outcome.
  Consume(Named("many"));
  std::vector<std::jthread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) {
        const bool there = (t + i) % 2 == 0;
        const auto sent = producer->SendTo(there ? "many" : "not-there", Event(std::to_string(i)));
        if (sent.has_value() != there) ++wrong;
      }
    });
  }
  threads.clear();
  CHECK(wrong == 0);
  const auto consumer = Consume(Named("many"));
  for (int i = 0; i < 200; ++i) Must(consumer->Ack(Next(*consumer)));
  CHECK(Empty(*consumer));
}

TEST_CASE("the broker is answered while a message is worked on") {
  RabbitMqOptions options = Options();
  options.heartbeat_s = 2;
  const auto consumer = Must(QueueConsumer::Open(options, Named("worked")));
  const auto producer = Must(QueueProducer::Open(options));
  Must(producer->SendTo("worked", Event("x")));
  const Delivery delivery = Next(*consumer);
  std::this_thread::sleep_for(std::chrono::seconds(8));  // well above two heartbeats
  Must(consumer->Ack(delivery));
  Must(producer->SendTo("worked", Event("y")));
  const Delivery next = Next(*consumer);
  CHECK(next.event.data == "y");
  CHECK_FALSE(next.redelivered);
  CHECK(next.connection == delivery.connection);
}

TEST_CASE("a queue that is deleted, and a broker that is killed, are there again") {
  QueueOptions queue = Named("recovered");
  queue.bindings = {"recovered.#"};
  const auto consumer = Consume(queue);
  const auto producer = Must(QueueProducer::Open(Options()));
  Stranger().Delete("recovered");
  // It is declared and bound again; until then nobody is bound.
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  Status published;
  do {
    published = producer->Publish("recovered.x", Event("1"));
  } while (!published && std::chrono::steady_clock::now() < deadline);
  Must(published);
  const Delivery one = Next(*consumer);
  CHECK(one.event.data == "1");
  Must(producer->Publish("recovered.x", Event("2")));
  const Delivery two = Next(*consumer);
  Must(consumer->Ack(one));
  // The acknowledgement goes first, and then comes what is behind it.
  Must(producer->Publish("recovered.x", Event("3")));
  CHECK(Next(*consumer).event.data == "3");
  TheBroker().Run("kill");
  std::jthread starter([] { TheBroker().Run("start"); });
  // Sent while it is away: waits for it, or says that it may be tried again.
  do {
    published = producer->Publish("recovered.x", Event("4"));
  } while (!published && published.error().Retryable() &&
           std::chrono::steady_clock::now() < deadline + kPatience);
  Must(published);
  // "1" may come again, too: what the broker has not written down of an acknowledgement went with it.
  std::set<std::string> seen;
  while (!seen.contains("2") || !seen.contains("3") || !seen.contains("4")) {
    const Delivery delivery = Next(*consumer);
    seen.emplace(delivery.event.data);
    Must(consumer->Ack(delivery));
  }
  const auto late = consumer->Ack(two);
  CHECK(ClassOf(late) == ErrorClass::kUnavailable);
  CHECK(late.error().Text().find("it comes again") != std::string::npos);
}

}  // namespace
}  // namespace leat::bus
