// Publishing to a RabbitMQ stream with confirms, and consuming it with acknowledgements, beside a bare
// loop on rabbitmq-c in the same run.
//
// usage: bench_rabbitmq [PORT=19672] [EVENTS=300000] [bare] [headers] [ours]
//        (deploy/rabbitmq start; without a part all of them)
//
// Events carry 200 bytes of data; the bare messages have as many bytes of body and nothing else, so the
// difference is what an event's attributes cost, on the wire and with the broker. `PublishTo` waits for
// the confirms, as the bare loop does; `Publish` also reads every event back, since confirms do not tell
// offsets. The second reference (`headers`) is the same loop with an event's attributes, through a topic
// exchange: what a client can do with an event at all. All have at most 4,096 messages unconfirmed, prefetch 256 and acknowledge 64 at once.
// Each is measured three times in turns, and the medians are compared. Exits with 1 when a target is missed.
#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/transports/targets.h"
#include "bus/rabbitmq/rabbitmq_transport.h"
#include "core/log.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kDataBytes = 200;
constexpr size_t kPublishEvents = 10'000;  // of one call: the window of confirms stays full
constexpr int kRounds = 3;
constexpr amqp_channel_t kChannel = 1;
constexpr uint64_t kUnconfirmedMax = 4096;
constexpr uint16_t kPrefetch = 256;
constexpr const char* kType = "bench.happened.v1";
constexpr const char* kId = "0190163d-8694-739b-aea5-966c26f8ad91";
constexpr const char* kSource = "bench";
constexpr const char* kTimeText = "2017-07-14T02:40:00Z";

double Seconds(Clock::time_point begun) {
  return std::chrono::duration<double>(Clock::now() - begun).count();
}
double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}
void Expect(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}
amqp_bytes_t Bytes(const std::string& text) {
  return {text.size(), const_cast<char*>(text.data())};
}

// A connection with one channel.
class Bare {
 public:
  explicit Bare(int port) : state_(amqp_new_connection()) {
    amqp_socket_t* socket = amqp_tcp_socket_new(state_);
    Expect(amqp_socket_open(socket, "127.0.0.1", port) == 0, "no broker answers");
    Expect(amqp_login(state_, "/", 0, 131'072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest")
                   .reply_type == AMQP_RESPONSE_NORMAL,
           "login");
    amqp_channel_open(state_, kChannel);
    Check("channel");
  }
  ~Bare() { amqp_destroy_connection(state_); }

  void Declare(const std::string& queue) {
    amqp_table_entry_t type{};
    type.key = amqp_cstring_bytes("x-queue-type");
    type.value.kind = AMQP_FIELD_KIND_UTF8;
    type.value.value.bytes = amqp_cstring_bytes("stream");
    amqp_queue_declare(state_, kChannel, Bytes(queue), 0, 1, 0, 0, {1, &type});
    Check("declare");
  }
  void Delete(const std::string& queue) {
    amqp_queue_delete(state_, kChannel, Bytes(queue), 0, 0);
    Check("delete");
  }

  void Bind(const std::string& queue, const std::string& exchange) {
    amqp_queue_bind(state_, kChannel, Bytes(queue), Bytes(exchange), Bytes(queue + ".0.#"),
                    amqp_empty_table);
    Check("bind");
  }

  // Without an exchange a bare message straight to the queue, else one with an event's attributes.
  double Publish(const std::string& queue, uint64_t events, const std::string& data,
                 const std::string& exchange = {}) {
    amqp_confirm_select(state_, kChannel);
    Check("confirms");
    amqp_basic_properties_t properties{};
    properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
    properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
    const std::pair<const char*, const char*> attributes[] = {{"cloudEvents_specversion", "1.0"},
                                                              {"cloudEvents_type", kType},
                                                              {"cloudEvents_id", kId},
                                                              {"cloudEvents_source", kSource},
                                                              {"cloudEvents_time", kTimeText}};
    amqp_table_entry_t headers[std::size(attributes)] = {};
    for (size_t i = 0; i < std::size(attributes); ++i) {
      headers[i].key = amqp_cstring_bytes(attributes[i].first);
      headers[i].value.kind = AMQP_FIELD_KIND_UTF8;
      headers[i].value.value.bytes = amqp_cstring_bytes(attributes[i].second);
    }
    std::string key = queue;
    if (!exchange.empty()) {
      properties._flags |= AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_CONTENT_TYPE_FLAG |
                           AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG;
      properties.headers = {static_cast<int>(std::size(headers)), headers};
      properties.content_type = amqp_cstring_bytes("application/protobuf");
      properties.type = amqp_cstring_bytes(kType);
      properties.message_id = amqp_cstring_bytes("1795280000000000-12345-0/1234567");
      key += ".0." + std::string(kType);
    }
    const auto begun = Clock::now();
    uint64_t sent = 0, confirmed = 0;
    while (confirmed < events) {
      while (sent < events && sent - confirmed < kUnconfirmedMax) {
        Expect(amqp_basic_publish(state_, kChannel, Bytes(exchange), Bytes(key),
                                  exchange.empty() ? 0 : 1, 0, &properties, Bytes(data)) == AMQP_STATUS_OK,
               "publish");
        ++sent;
      }
      // One is waited for; what else is there is taken with it.
      for (bool wait = true;; wait = false) {
        amqp_frame_t frame;
        const timeval at_once = {0, 0};
        const int status = wait ? amqp_simple_wait_frame(state_, &frame)
                                : amqp_simple_wait_frame_noblock(state_, &frame, &at_once);
        if (status == AMQP_STATUS_TIMEOUT) break;
        Expect(status == AMQP_STATUS_OK, "reading");
        if (frame.frame_type == AMQP_FRAME_METHOD &&
            frame.payload.method.id == AMQP_BASIC_ACK_METHOD) {
          const auto* ack = static_cast<const amqp_basic_ack_t*>(frame.payload.method.decoded);
          confirmed = ack->multiple != 0 ? ack->delivery_tag : confirmed + 1;
        }
        amqp_maybe_release_buffers(state_);
      }
    }
    return static_cast<double>(events) / Seconds(begun);
  }

  double Consume(const std::string& queue, uint64_t events) {
    amqp_basic_qos(state_, kChannel, 0, kPrefetch, 0);
    Check("prefetch");
    amqp_table_entry_t offset{};
    offset.key = amqp_cstring_bytes("x-stream-offset");
    offset.value.kind = AMQP_FIELD_KIND_UTF8;
    offset.value.value.bytes = amqp_cstring_bytes("first");
    amqp_basic_consume(state_, kChannel, Bytes(queue), amqp_empty_bytes, 0, 0, 0, {1, &offset});
    Check("consume");
    const auto begun = Clock::now();
    uint64_t bytes = 0;
    for (uint64_t read = 1; read <= events; ++read) {
      amqp_envelope_t envelope;
      amqp_maybe_release_buffers(state_);
      Expect(amqp_consume_message(state_, &envelope, nullptr, 0).reply_type == AMQP_RESPONSE_NORMAL,
             "consuming");
      bytes += envelope.message.body.len;
      const uint64_t tag = envelope.delivery_tag;
      amqp_destroy_envelope(&envelope);
      if (read % (kPrefetch / 4) == 0) amqp_basic_ack(state_, kChannel, tag, 1);
    }
    Expect(bytes == events * kDataBytes, "bytes are missing");
    return static_cast<double>(events) / Seconds(begun);
  }

 private:
  void Check(const char* what) {
    Expect(amqp_get_rpc_reply(state_).reply_type == AMQP_RESPONSE_NORMAL, what);
  }
  amqp_connection_state_t state_;
};

template <typename Result>
void Must(const Result& result) {
  if (!result) Expect(false, result.error().Text().c_str());
}

// `read_back`: by Publish, else by PublishTo.
double Publish(leat::bus::RabbitMqTransport* transport, const std::string& topic, uint64_t events,
               const std::string& data, bool read_back) {
  leat::events::EventView view;
  view.type = kType;
  view.id = kId;
  view.source = kSource;
  view.time_us = 1'500'000'000'000'000;
  view.data = data;
  const std::vector<leat::events::Event> batch(kPublishEvents, leat::events::Event(view));
  const auto begun = Clock::now();
  for (uint64_t sent = 0; sent < events; sent += batch.size()) {
    if (read_back) {
      Must(transport->Publish(topic, batch));
    } else {
      Must(transport->PublishTo(topic, 0, batch));
    }
  }
  return static_cast<double>(events) / Seconds(begun);
}

double Read(leat::bus::RabbitMqTransport* transport, const std::string& topic, uint64_t events) {
  auto subscription = transport->Subscribe(topic, 0, 0);
  Must(subscription);
  leat::bus::MessageBatch batch;
  const auto begun = Clock::now();
  for (uint64_t read = 0; read < events; read += batch.messages.size()) {
    Must((*subscription)->Poll({}, &batch));
  }
  return static_cast<double>(events) / Seconds(begun);
}

}  // namespace

int main(int argc, char** argv) {
  leat::core::InitLog(leat::core::LogLevel::kError);
  const int port = argc > 1 ? std::atoi(argv[1]) : 19672;
  const uint64_t events = (argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 300'000) /
                          kPublishEvents * kPublishEvents;
  const auto wanted = [&](std::string_view part) {
    return argc <= 3 || std::find(argv + 3, argv + argc, part) != argv + argc;
  };
  leat::bus::RabbitMqOptions options;
  options.port = static_cast<uint16_t>(port);
  options.exchange = "bench" + std::to_string(Clock::now().time_since_epoch().count());
  auto transport = leat::bus::RabbitMqTransport::Open(options);
  Must(transport);
  std::string data;
  for (uint64_t i = 0; data.size() < kDataBytes; ++i)
    data += std::to_string(i * 2'654'435'761 % 100'003) + ",";
  data.resize(kDataBytes);

  std::vector<double> bare_publish, bare_consume, headers_publish, headers_consume, publish, read_back, consume;
  for (int i = 0; i < kRounds; ++i) {
    const std::string round = std::to_string(i);
    const auto bare = [&](const std::string& exchange, std::vector<double>* published,
                          std::vector<double>* consumed) {
      const std::string queue = options.exchange + "-bare" + round;
      Bare(port).Declare(queue);
      if (!exchange.empty()) Bare(port).Bind(queue, exchange);
      published->push_back(Bare(port).Publish(queue, events, data, exchange));
      consumed->push_back(Bare(port).Consume(queue, events));
      Bare(port).Delete(queue);
    };
    if (wanted("bare")) bare({}, &bare_publish, &bare_consume);
    if (wanted("headers")) bare(options.exchange, &headers_publish, &headers_consume);
    if (!wanted("ours")) continue;
    Must((*transport)->CreateTopic("confirmed" + round, 1));
    publish.push_back(Publish(transport->get(), "confirmed" + round, events, data, false));
    consume.push_back(Read(transport->get(), "confirmed" + round, events));
    Must((*transport)->CreateTopic("read-back" + round, 1));
    read_back.push_back(Publish(transport->get(), "read-back" + round, events, data, true));
  }
  const auto median = [](const char* what, const std::vector<double>& rates,
                         const std::vector<double>& of) {
    if (rates.empty()) return;
    std::printf("%s: %.0f/s", what, Median(rates));
    if (!of.empty()) std::printf(", %.2f of the bare loop", Median(rates) / Median(of));
    std::printf(" (");
    for (const double rate : rates) std::printf(" %.0f", rate);
    std::printf(" )\n");
  };
  median("bare loop, publish with confirms", bare_publish, {});
  median("the same with headers, through an exchange", headers_publish, bare_publish);
  median("PublishTo", publish, bare_publish);
  median("Publish, read back", read_back, bare_publish);
  median("bare loop, consume with acknowledgements", bare_consume, {});
  median("the same with headers", headers_consume, bare_consume);
  median("Poll", consume, bare_consume);
  leat::bench::Targets targets;
  if (!publish.empty() && !bare_publish.empty()) {
    targets.AtLeast("publish, of the bare loop", Median(publish) / Median(bare_publish), 0.9);
    targets.AtLeast("consume, of the bare loop", Median(consume) / Median(bare_consume), 0.9);
  }
  return targets.exit_code();
}
